"""The BERT encoder: MoVA's text encoder (BERT-large) and all-MiniLM-L6-v2. No pooler.

Post-norm blocks, exact gelu, one segment. Axis letters: T tokens, D width, V vocabulary, P positions. One text.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.checkpoint.mapping import Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import SelfAttention
from ports.common.layers.linear import LayerNorm, linear, normal
from ports.common.layers.stack import scan_layers, stack


@dataclass(frozen=True)
class BertConfig:
    """Sizes of the encoder; what every uncased BERT shares has a default."""

    width: int
    layers: int
    heads: int
    hidden: int
    vocab_size: int = 30522
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    dtype: str = "float32"
    remat: bool = False


class BertBlock(nnx.Module):
    """x = norm(x + attention(x)); x = norm(x + down(gelu(up(x))))."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.attention = SelfAttention(config.width, config.heads, rngs, config.dtype)
        self.attention_norm = LayerNorm(config.width, config.eps, config.dtype)
        self.up = linear(config.width, config.hidden, rngs, config.dtype)
        self.down = linear(config.hidden, config.width, rngs, config.dtype)
        self.norm = LayerNorm(config.width, config.eps, config.dtype)

    def __call__(self, x: Float[Array, "T D"], mask: Bool[Array, "1 T"]) -> Float[Array, "T D"]:
        x = self.attention_norm(x + self.attention(x, mask))
        return self.norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))


class Bert(nnx.Module):
    """Word, position and segment embeddings, then the blocks as a scanned stack."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.config = config
        self.words = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.places = normal(rngs, (config.positions, config.width), config.dtype)
        self.types = normal(rngs, (config.types, config.width), config.dtype)
        self.embedding_norm = LayerNorm(config.width, config.eps, config.dtype)
        self.layers = stack(lambda rngs: BertBlock(config, rngs), config.layers, rngs)

    def embed(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        """The sum of the three embeddings, normalised: Hugging Face's hidden state 0."""
        places = self.places[...][: tokens.shape[0]]
        return self.embedding_norm(self.words[...][tokens] + places + self.types[...][:1])

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "T D"]:
        """The last block's states; padded tokens, where `mask` is false, are seen by nobody."""
        return self.states(tokens, mask)[0]

    def states(
        self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]
    ) -> tuple[Float[Array, "T D"], Float[Array, "layers T D"]]:
        """The last block's states, and those of every block."""

        def step(layer: BertBlock, x: Array, _: None) -> tuple[Array, Array]:
            x = layer(x, mask[None])
            return x, x

        return scan_layers(self.layers, step, self.embed(tokens), remat="full" if self.config.remat else "none")


def bert_leaves(ours: str, theirs: str, config: BertConfig) -> dict[str, Leaf]:
    """Parameters of `Bert` at path `ours` from a BertModel at prefix `theirs` ("", "bert.", ...).

    `pooler.dense` and `embeddings.position_ids` are known there and not needed.
    """
    layer = f"{theirs}encoder.layer.{{}}"
    leaves = {
        f"{ours}/{table}": Leaf((f"{theirs}embeddings.{name}_embeddings.weight",))
        for table, name in (("words", "word"), ("places", "position"), ("types", "token_type"))
    }
    leaves |= norm_leaves(f"{ours}/embedding_norm", f"{theirs}embeddings.LayerNorm")
    for part, name in (
        ("attention/query", "attention.self.query"),
        ("attention/key", "attention.self.key"),
        ("attention/value", "attention.self.value"),
        ("attention/out", "attention.output.dense"),
        ("up", "intermediate.dense"),
        ("down", "output.dense"),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", layers=config.layers)
    for part, name in (("attention_norm", "attention.output.LayerNorm"), ("norm", "output.LayerNorm")):
        leaves |= norm_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", config.layers)
    return leaves
