"""BERT, the mean of the tokens' states, and a unit vector.

Axis letters: T tokens, M embedding size.
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.bert import Bert
from ports.common.text_embedder import mean_pool, unit
from ports.minilm.config import MiniLMConfig


class MiniLM(nnx.Module):
    """One text; [CLS] and [SEP] count in the mean."""

    def __init__(self, config: MiniLMConfig, rngs: nnx.Rngs):
        self.bert = Bert(config.bert, rngs)

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"], pooled: Bool[Array, "T"]) -> Float[Array, "M"]:
        return unit(mean_pool(self.bert(tokens, mask), pooled))
