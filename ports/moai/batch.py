"""Data of the model: inputs, answers, features, caches. One sample each; batches are leading axes.

Axis letters: N image tokens, T text tokens, S = N + T prompt slots (image first), U verbalization tokens, Z compressor
latents, D width, L mixers, P plain layers before the first mixer, Q layers without a mixer, A answer tokens,
G key-value heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from ports.common.layers.decoder import KVCache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MoAIInputs:
    """The processor's output for one sample. Text is padded on the left.

    Args:
        image: pixels.
        segments: panoptic segment numbers, 0 for none.
        tokens: the text; it holds no image token.
        mask: False where the text is padded.
        before_image: text tokens that come before the image.
        language: text tokens that the mixers process; equal to `mask`, unless answer tokens are part of the text.
        verbalization: the auxiliary text.
        verbalization_mask: False where the auxiliary text is padded.
    """

    image: UInt8[Array, "size size 3"]
    segments: UInt8[Array, "size size"]
    tokens: Int[Array, "T"]
    mask: Bool[Array, "T"]
    before_image: Bool[Array, "T"]
    language: Bool[Array, "T"]
    verbalization: Int[Array, "U"]
    verbalization_mask: Bool[Array, "U"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MoAIAnswer:
    """Answer tokens, the end of turn included, padded to A."""

    tokens: Int[Array, "A"]
    mask: Bool[Array, "A"]


class ExpertOutputs(NamedTuple):
    """The output of each of a mixer's experts in every row."""

    image: Float[Array, "3 N D"]
    language: Float[Array, "3 T D"]


class SequenceLayout(NamedTuple):
    """Positions of the prompt's slots in the sequence. In memory the image comes first: its rows are a static slice."""

    positions: Int[Array, "S"]
    valid: Bool[Array, "S"]
    language: Bool[Array, "T"]

    @property
    def length(self) -> Int[Array, ""]:
        """Tokens of the prompt, padding not counted: the position of the first answer token."""
        return self.valid.sum()

    def visible(self, positions: Int[Array, "A"]) -> Bool[Array, "A S"]:
        """The causal mask of tokens at these positions over the slots; a token attends to itself."""
        return self.valid[None] & (self.positions[None] <= positions[:, None])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MoAIFeatures:
    """Everything that depends neither on routing nor on an answer: the forward pass before the first weighted sum."""

    layout: SequenceLayout
    stream: Float[Array, "S D"]  # the residual stream entering the first mixer's layer
    outputs: ExpertOutputs  # of the first mixer
    latents: Float[Array, "Z D"]  # compressed auxiliary inputs
    past: KVCache  # [P, S, G, d], of the layers before the first mixer


class LayerCaches(NamedTuple):
    """Keys and values of every layer, stacked as the parameters are."""

    plain: KVCache  # [Q, S, G, d]
    mixed: KVCache  # [L, S, G, d]

    def padded(self, free: int) -> LayerCaches:
        """The caches with `free` empty slots appended."""
        return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, free), (0, 0), (0, 0))), self)
