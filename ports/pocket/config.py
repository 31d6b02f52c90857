"""Sizes of the pocket model, and what follows from them: parameters, inputs to try it on.

FLOPs stand beside it, in `flops.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2t2_jax.routing import RoutingSpec

if TYPE_CHECKING:
    from ports.pocket.modeling import PocketInputs


@dataclass(frozen=True)
class PocketConfig:
    """A MoVA-like model of 0.26 million parameters.

    `channel` is the width of the stream through which the experts reach the language model. It decides how much
    routing matters: six numbers a cell cannot carry six experts at once.
    """

    vocab_size: int
    experts: tuple[str, ...] = ("color", "shape", "texture", "glyph", "size", "position")
    mixers: int = 2
    cells: int = 16
    channel: int = 6
    expert_width: int = 8
    convolutions: tuple[int, ...] = (16, 24, 32, 48)
    key_width: int = 8
    width: int = 64
    heads: int = 4
    hidden: int = 128
    depth: int = 3
    question_length: int = 16
    answer_length: int = 3
    gate_hidden: int = 64

    @property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights."""
        return RoutingSpec(self.experts, tuple(f"mixer{i}" for i in range(self.mixers)))

    def parameters(self) -> int:
        """How many numbers the model has, one gate included."""
        import jax
        from flax import nnx

        from ports.pocket.modeling import PocketNet

        shapes = nnx.eval_shape(lambda: nnx.state(PocketNet(self, nnx.Rngs(0))))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def fake_inputs(self) -> PocketInputs:
        """Inputs of the right shapes: a gray image and a question of unknown words."""
        import jax.numpy as jnp

        from ports.pocket.modeling import PocketInputs
        from ports.pocket.scenes import IMAGE
        from ports.pocket.tokenizer import UNKNOWN

        return PocketInputs(
            jnp.full((IMAGE, IMAGE, 3), 128, jnp.uint8),
            jnp.full(self.question_length, UNKNOWN),
            jnp.ones(self.question_length, bool),
        )
