"""NV-Embed-v2 as an embedder of the contract.

Its weights are licensed for non-commercial use only (CC-BY-NC-4.0); nothing here uses them unless it is asked to.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from ports.common.instructions import SIMILAR_TEXT, instruct
from ports.common.opened import open_model
from ports.common.text_embedder import TextEmbedder, TextEncoder, Tokens
from ports.common.tokenizing import id_of, read_tokenizer
from ports.nv_embed.config import NVEmbedConfig
from ports.nv_embed.modeling import NVEmbed
from ports.nv_embed.params import converter
from r2t2_jax.errors import R2T2Error

LICENCE = "the weights of NV-Embed-v2 are for non-commercial use only (CC-BY-NC-4.0)"
END = "</s>"

logger = logging.getLogger("r2t2")


@dataclass(frozen=True)
class NVEmbedTokenizer:
    """<s> instruction text </s>. As many first tokens as the instruction has, counted without <s>, are not pooled.

    So <s> and all of the instruction but its last token are left out, as upstream does it. A long text loses its end.
    """

    tokenizer: Tokenizer
    instruction: str
    max_tokens: int
    end: int

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        skipped = len(self.tokenizer.encode(self.instruction, add_special_tokens=False).ids)
        encodings = self.tokenizer.encode_batch([self.instruction + text + END for text in texts])
        return [self._cut(encoding.ids, skipped) for encoding in encodings]

    def _cut(self, ids: list[int], skipped: int) -> Tokens:
        if len(ids) <= self.max_tokens:
            return Tokens(tuple(ids), skipped)
        return Tokens((*ids[: self.max_tokens - 1], self.end), skipped, cut=True)


def load(path: str | None) -> TextEmbedder:
    """NV-Embed-v2. The licence of the weights is logged.

    Args:
        path: a model directory, the upstream folder, or a hub id.

    Raises:
        R2T2Error: no path, or what is there is missing or damaged.
    """
    if path is None:
        raise R2T2Error(f"nv_embed needs its weights: nv_embed:PATH, made by r2t2 convert; {LICENCE}")
    opened = open_model(converter, NVEmbedConfig, path)
    logger.warning("nv_embed: %s", LICENCE)
    config, tokenizer = opened.config, read_tokenizer(opened.tokenizer)
    instruction = instruct(SIMILAR_TEXT)
    return TextEmbedder(
        name="nv-embed",
        digest=opened.digest,
        settings=(instruction,),
        tokenize=NVEmbedTokenizer(tokenizer, instruction, config.max_tokens, id_of(tokenizer, END)),
        encoder=TextEncoder.of(lambda rngs: NVEmbed(config, rngs)),
        params=opened.params,
        size=config.width,
        max_tokens=config.max_tokens,
    )
