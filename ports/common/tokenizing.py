"""The model's own tokenizer.json, with its truncation and padding put aside: we cut and pad ourselves."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from r2t2_jax.errors import R2T2Error


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder.

    Raises:
        R2T2Error: no tokenizer.json, or a damaged one.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise R2T2Error(f"no {file}; copy the model's tokenizer.json there")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exceptions
        raise R2T2Error(f"{file} is no tokenizer ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token.

    Raises:
        R2T2Error: the tokenizer has none of that name.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise R2T2Error(f"the tokenizer has no token {token!r}; is it the model's own?")
    return found
