"""The feed-forward of EVA-02, in Co-DETR and in the adapter: gated, with a norm before the way down.

Axis letters: T tokens, D width.
"""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import Array, Float

from ports.common.linear import linear
from ports.common.mapping import Layers, Leaf, linear_leaves, norm_leaves
from ports.common.norms import LayerNorm


class GatedNormed(nnx.Module):
    """down(norm(silu(gate(x)) * up(x))), all with biases."""

    def __init__(self, width: int, hidden: int, eps: float, rngs: nnx.Rngs, dtype: str):
        self.gate = linear(width, hidden, rngs, dtype)
        self.up = linear(width, hidden, rngs, dtype)
        self.norm = LayerNorm(hidden, eps, dtype)
        self.down = linear(hidden, width, rngs, dtype)

    def __call__(self, x: Float[Array, "*T D"]) -> Float[Array, "*T D"]:
        return self.down(self.norm(jax.nn.silu(self.gate(x)) * self.up(x)))


def gated_leaves(ours: str, theirs: str, layers: Layers = None) -> dict[str, Leaf]:
    """Parameters of `GatedNormed`: upstream's w1, w2, w3 and ffn_ln."""
    leaves = norm_leaves(f"{ours}/norm", f"{theirs}.ffn_ln", layers)
    for part, name in (("gate", "w1"), ("up", "w2"), ("down", "w3")):
        leaves |= linear_leaves(f"{ours}/{part}", f"{theirs}.{name}", layers=layers)
    return leaves
