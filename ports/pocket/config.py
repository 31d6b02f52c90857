"""Sizes of the pocket model, and what follows from them: parameters, FLOPs, inputs to try it on.

Axis letters: E experts, I image cells, W channel, F expert features, Q key width, D width, H hidden, T question tokens,
A answer tokens, V vocabulary.
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

    def _attend_products(self) -> int:
        experts, cells, channel, key = len(self.experts), self.cells, self.channel, self.key_width
        return experts * cells * (channel * key + cells * key + cells * channel)

    def _block_products(self, tokens: int, context: int, queries: bool = True) -> int:
        keys_values = tokens * self.width * 2 * self.width
        attention = 2 * tokens * self.width**2 + 2 * tokens * context * self.width
        return keys_values + queries * (attention + 2 * tokens * self.width * self.hidden)

    def encode_flops(self) -> int:
        """FLOPs (2 x multiply-add) of everything that does not depend on routing."""
        c1, c2, c3, c4 = self.convolutions
        experts, cells, features = len(self.experts), self.cells, self.expert_width
        encoder = (
            32**2 * 27 * c1 + 16**2 * 9 * c1 * c2 + 8**2 * 9 * c2 * c3 + cells * 4 * c3 * c4 + cells * c4 * features
        )
        stream = cells * features * self.channel
        projections = self.mixers * experts * cells * features * (self.key_width + self.channel)
        question = self.depth * self._block_products(self.question_length, self.question_length)
        return 2 * ((experts + 1) * encoder + stream + projections + self._attend_products() + question)

    def gate_flops(self) -> int:
        """FLOPs (2 x multiply-add) of the router's own weights, from the features."""
        return 2 * (self.width + self.channel + self.mixers * len(self.experts)) * self.gate_hidden

    def forward_flops(self) -> int:
        """FLOPs (2 x multiply-add) of one loss that depends on routing: one evaluation."""
        experts, cells, width, answer = len(self.experts), self.cells, self.width, self.answer_length
        mixing = self.mixers * experts * cells * self.channel + (self.mixers - 1) * self._attend_products()
        projector = cells * width * (self.channel + width)
        context = self.question_length + cells
        image = sum(self._block_products(cells, context, queries=n < self.depth - 1) for n in range(self.depth))
        words = self.depth * self._block_products(answer, context + answer) + answer * width * self.vocab_size
        return 2 * (mixing + projector + image + words)
