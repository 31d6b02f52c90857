"""The BERT encoder: MoVA's text encoder (BERT-large) and all-MiniLM-L6-v2. No pooler.

Post-norm blocks, exact gelu, one segment. Axis letters: T tokens, D width. The methods take one text.
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
    """Sizes of the encoder; the defaults are common to all uncased BERT models."""

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
    """x = attention_layernorm(x + attention(x)); x = output_layernorm(x + output(gelu(intermediate(x))))."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.attention = SelfAttention(config.width, config.heads, rngs, config.dtype)
        self.attention_layernorm = LayerNorm(config.width, config.eps, config.dtype)
        self.intermediate = linear(config.width, config.hidden, rngs, config.dtype)
        self.output = linear(config.hidden, config.width, rngs, config.dtype)
        self.output_layernorm = LayerNorm(config.width, config.eps, config.dtype)

    def __call__(self, x: Float[Array, "T D"], mask: Bool[Array, "1 T"]) -> Float[Array, "T D"]:
        x = self.attention_layernorm(x + self.attention(x, mask))
        return self.output_layernorm(x + self.output(jax.nn.gelu(self.intermediate(x), approximate=False)))


class Bert(nnx.Module):
    """Word, position and segment embeddings, then the blocks as a scanned stack."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs):
        self.config = config
        self.word_embeddings = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.position_embeddings = normal(rngs, (config.positions, config.width), config.dtype)
        self.token_type_embeddings = normal(rngs, (config.types, config.width), config.dtype)
        self.embeddings_layernorm = LayerNorm(config.width, config.eps, config.dtype)
        self.layers = stack(lambda rngs: BertBlock(config, rngs), config.layers, rngs)

    def embed(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        """The normalized sum of the three embeddings: Hugging Face's hidden state 0."""
        words, segment = self.word_embeddings[...][tokens], self.token_type_embeddings[...][:1]
        return self.embeddings_layernorm(words + self.position_embeddings[...][: tokens.shape[0]] + segment)

    def __call__(self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]) -> Float[Array, "T D"]:
        """The last block's states; no token attends to padding, where `mask` is False."""
        return self.states(tokens, mask)[0]

    def states(
        self, tokens: Int[Array, "T"], mask: Bool[Array, "T"]
    ) -> tuple[Float[Array, "T D"], Float[Array, "layers T D"]]:
        """The last block's states, and the states of every block."""

        def step(layer: BertBlock, x: Array, _: None) -> tuple[Array, Array]:
            x = layer(x, mask[None])
            return x, x

        return scan_layers(self.layers, step, self.embed(tokens), remat="full" if self.config.remat else "none")


def bert_leaves(ours: str, theirs: str, config: BertConfig) -> dict[str, Leaf]:
    """Parameters of `Bert` at path `ours` from a BertModel at prefix `theirs` ("", "bert.", ...).

    `pooler.dense` and `embeddings.position_ids` are not needed.
    """
    layer = f"{theirs}encoder.layer.{{}}"
    leaves = {
        f"{ours}/{name}": Leaf((f"{theirs}embeddings.{name}.weight",))
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
    }
    leaves |= norm_leaves(f"{ours}/embeddings_layernorm", f"{theirs}embeddings.LayerNorm")
    for part, name in (
        ("attention/q_proj", "attention.self.query"),
        ("attention/k_proj", "attention.self.key"),
        ("attention/v_proj", "attention.self.value"),
        ("attention/o_proj", "attention.output.dense"),
        ("intermediate", "intermediate.dense"),
        ("output", "output.dense"),
    ):
        leaves |= linear_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", layers=config.layers)
    for part, name in (("attention_layernorm", "attention.output.LayerNorm"), ("output_layernorm", "output.LayerNorm")):
        leaves |= norm_leaves(f"{ours}/layers/{part}", f"{layer}.{name}", config.layers)
    return leaves
