"""Sizes of the pocket model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from r2t2_jax.routing import RoutingSpec


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

    @cached_property
    def spec(self) -> RoutingSpec:
        """Names and structure of the routing weights."""
        return RoutingSpec(self.experts, tuple(f"mixer{i}" for i in range(self.mixers)))
