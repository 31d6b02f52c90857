"""Data of the model: image views, inputs, features, answers, a prefilled prompt. One sample each.

Axis letters: N tokens of the map, C channels of an expert, D width of the adapter, E experts, T prompt tokens with
IMAGE among them, S tokens of the merged prompt, W tokens of the question, A answer tokens, O the language model's
width, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.decoder import KVCache
from ports.mova.adapter.adapter import AdapterFeatures

IMAGE = -200  # the placeholder token of the image in a prompt


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageViews:
    """One image in the four forms that the towers take: float32, normalized, channels last."""

    clip: Float[Array, "tile tile 3"]  # CLIP and BiomedCLIP
    dinov2: Float[Array, "tile tile 3"]
    high: Float[Array, "high high 3"]  # Vary, Co-DETR and SAM
    patches: Float[Array, "P 2+pixels"]  # Pix2Struct and Deplot


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaInputs:
    """The processor's output for one sample.

    Args:
        base: CLIP's tokens on the map.
        experts: the experts' tokens on the map, zeros for an expert that was not run.
        coarse: experts that the model chose in its first pass.
        available: experts that were run.
        tokens: the prompt, with one IMAGE.
        mask: False where the prompt is padded.
        words: the question for BERT.
        words_mask: False where the question is padded.
        prefix: number of template tokens before the image, equal in every prompt; they do not depend on routing.
    """

    base: Float[Array, "N D"]
    experts: tuple[Float[Array, "N C"], ...]
    coarse: Bool[Array, "E"]
    available: Bool[Array, "E"]
    tokens: Int[Array, "T"]
    mask: Bool[Array, "T"]
    words: Int[Array, "W"]
    words_mask: Bool[Array, "W"]
    prefix: int = field(default=0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaFeatures:
    """Everything that does not depend on routing."""

    adapter: AdapterFeatures
    embeddings: Float[Array, "T O"]
    image_position: Int[Array, ""]  # index of IMAGE in the prompt
    mask: Bool[Array, "T"]
    past: KVCache | None  # keys and values of the prefix


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MovaAnswer:
    """Answer tokens, end token included, padded to A."""

    tokens: Int[Array, "A"]
    mask: Bool[Array, "A"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefilledPrompt:
    """A prompt after prefill: its keys and values, its mask, and the hidden state of its last token."""

    cache: KVCache
    valid: Bool[Array, "S"]
    last: Float[Array, "O"]
