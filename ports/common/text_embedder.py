"""Texts to unit vectors: batching by length around a function of one text, used by every embedder port.

Axis letters: B texts, T tokens, M embedding size.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from ports.common.configs import ConfigFields, checked_value, read_json
from r2t2_jax.errors import R2T2Error

SHORTEST = 16
ROWS = 32
TOKENS = 4096

logger = logging.getLogger("r2t2")


@dataclass(frozen=True)
class Tokens:
    """One text: token ids, the number of leading tokens left out of pooling, and whether the text was truncated."""

    ids: tuple[int, ...]
    skipped: int = 0
    cut: bool = False


@dataclass(frozen=True)
class TextEncoder:
    """Function from one tokenized text to its vector; holds the graph of an NNX module, so it is hashable for jit."""

    graph: Any = field(hash=False)  # each call would hash it in 1 ms

    @classmethod
    def of(cls, make: Callable[[nnx.Rngs], nnx.Module]) -> TextEncoder:
        """The encoder of the module that `make` returns, without its parameters."""
        return cls(nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))[0])

    def __call__(
        self, params: Any, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]
    ) -> Float[Array, "M"]:
        """The unit vector in float32; `mask` marks real tokens, `pooled` the tokens that are averaged."""
        return nnx.merge(self.graph, params)(tokens, mask, pooled)


@dataclass(frozen=True)
class TextEmbedder:
    """An `Embedder` of the contract.

    Args:
        name: first part of the fingerprint.
        digest: sha256 of the weights and the tokenizer.
        settings: other texts that the vectors depend on, such as an instruction.
        tokenize: texts to ids.
        encoder: one text to its vector.
        params: of the encoder.
        size: M.
        max_tokens: maximal length of a text, at most the size of the model's position table.
    """

    name: str
    digest: str
    settings: tuple[str, ...]
    tokenize: Callable[[Sequence[str]], list[Tokens]]
    encoder: TextEncoder
    params: Any
    size: int
    max_tokens: int

    @property
    def fingerprint(self) -> str:
        """Name and eight hexadecimal digits of the weights, the tokenizer and the settings."""
        digest = self.digest
        if self.settings:
            digest = hashlib.sha256("\n".join((digest, *self.settings)).encode()).hexdigest()
        return f"{self.name}@{digest[:8]}"

    def embed(self, texts: Sequence[str]) -> Float[np.ndarray, "B M"]:
        """Unit vectors, in the order of the texts; a warning with the number of truncated texts is logged."""
        tokens = self.tokenize(texts)
        cut = sum(text.cut for text in tokens)
        if cut:
            logger.warning("%s: %d of %d texts were too long and were truncated", self.name, cut, len(texts))
        vectors = np.zeros((len(texts), self.size), np.float32)
        for rows, length in _batches([len(text.ids) for text in tokens], self.max_tokens):
            arrays = _padded([tokens[row] for row in rows], length)
            vectors[rows] = np.asarray(_encode(self.encoder, self.params, *arrays))[: len(rows)]
        return vectors


@functools.partial(jax.jit, static_argnums=0)
def _encode(
    encoder: TextEncoder, params: Any, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], pooled: Bool[Array, "B T"]
) -> Float[Array, "B M"]:
    """Vectors of a batch. On a CPU texts run one by one: as fast, and bit-equal for every batch composition."""
    rows = (tokens, mask, pooled)

    def one(row: tuple[Array, Array, Array]) -> Array:
        return encoder(params, *row)

    return jax.lax.map(one, rows) if jax.default_backend() == "cpu" else jax.vmap(one)(rows)


def _batches(lengths: Sequence[int], longest: int) -> Iterator[tuple[list[int], int]]:
    """Rows of similar length and their padded length: a power of two up to `longest`, so that few programs compile."""
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    while rows:
        length = min(longest, _power(max(SHORTEST, lengths[rows[0]])))
        fits = [row for row in rows if lengths[row] <= length][: max(1, min(ROWS, TOKENS // length))]
        rows = rows[len(fits) :]
        yield fits, length


def _power(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _padded(texts: Sequence[Tokens], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, mask and pooling mask, padded on the right; the first row is repeated up to a power of two of rows."""
    rows = [*texts, *[texts[0]] * (_power(len(texts)) - len(texts))]
    ids = np.zeros((len(rows), length), np.int32)
    for row, text in zip(ids, rows, strict=True):
        row[: len(text.ids)] = text.ids
    place = np.arange(length)[None]
    mask = place < np.array([len(text.ids) for text in rows])[:, None]
    return ids, mask, mask & (place >= np.array([text.skipped for text in rows])[:, None])


def mean_pool(states: Float[Array, "T D"], pooled: Bool[Array, "T"]) -> Float[Array, "D"]:
    """Mean over the marked tokens, in float32."""
    marked = jnp.where(pooled[:, None], states.astype(jnp.float32), 0.0)
    return marked.sum(axis=0) / jnp.maximum(pooled.sum(), 1e-9)


def last_token(states: Float[Array, "T D"], mask: Bool[Array, "T"]) -> Float[Array, "D"]:
    """The state of the last real token, in float32."""
    return states[mask.shape[0] - 1 - jnp.argmax(mask[::-1])].astype(jnp.float32)


def unit(vector: Float[Array, "M"]) -> Float[Array, "M"]:
    """The vector divided by its norm, or by 1e-12 if the norm is smaller."""
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


LIMITS = "sentence_bert_config.json"
LENGTHS = ConfigFields(
    LIMITS,
    fixed={"do_lower_case": (False,), "transformer_task": ("feature-extraction",)},
    inert=("max_seq_length", "modality_config", "module_output_name"),
)


def length_limit(folder: Path) -> int | None:
    """The maximal number of tokens that a sentence-transformers folder states, if it states one.

    Raises:
        R2T2Error: the file that states it is damaged or has a value that is not implemented.
    """
    if not (folder / LIMITS).is_file():
        return None
    described = read_json(folder / LIMITS)
    LENGTHS.read(described)
    length = described.get("max_seq_length")
    return checked_value(LIMITS, "max_seq_length", length, int | None)


SIMILAR_TEXT = "Retrieve semantically similar text"


def instruct(task: str) -> str:
    """The prompt before a text, in the format of stella, gte and NV-Embed."""
    return f"Instruct: {task}\nQuery: "


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
    number = tokenizer.token_to_id(token)
    if number is None:
        raise R2T2Error(f"the tokenizer has no token {token!r}; is it the model's own?")
    return number
