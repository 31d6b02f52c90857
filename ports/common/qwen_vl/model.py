"""The multimodal Qwen models as routed models: the vision tower in front of a decoder.

Axis letters: T tokens of the prompt, N patches, J levels of DeepStack, D width of the decoder. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.layers.moe_decoder import MoEDecoder
from ports.common.layers.stack import traced_keys
from ports.common.moe_lm.features import Prompt
from ports.common.moe_lm.model import RoutedLM
from ports.common.qwen_vl.config import QwenVLConfig
from ports.common.qwen_vl.vision import Patches, VisionTower
from r2t2_jax.routing import TOKEN_CLASSES


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VLInputs:
    """A prompt and the patches of its images, in the order in which their tokens stand."""

    prompt: Prompt
    patches: Patches


class QwenVL(nnx.Module):
    """Tower and decoder; the config of the decoder says which."""

    def __init__(self, config: QwenVLConfig, rngs: nnx.Rngs):
        self.visual = VisionTower(config.vision, rngs)
        self.decoder = config.decoder.create(rngs)


@dataclass(frozen=True)
class RoutedVL(RoutedLM):
    """The contract's functions on one traced sample."""

    @property
    def token_classes(self) -> tuple[str, ...]:
        """The classes of tokens in a sequence."""
        return TOKEN_CLASSES

    def decoder(self, params: Any) -> MoEDecoder:
        """The decoder with its parameters."""
        return nnx.merge(self.graph, params).decoder

    def embed(self, params: Any, inputs: VLInputs) -> tuple[Prompt, Float[Array, "T D"], Float[Array, "J T D"] | None]:
        """Token embeddings, replaced by the tower's features at image tokens; DeepStack adds only there."""
        net: QwenVL = nnx.merge(self.graph, params)
        prompt = inputs.prompt
        features, levels = net.visual(inputs.patches)  # [N/m, D], [J, N/m, D]
        block = jnp.clip(jnp.cumsum(prompt.visual) - 1, 0, len(features) - 1)  # [T]
        visual = prompt.visual[:, None]
        x = jnp.where(visual, features[block], net.decoder.embed(prompt.tokens))
        return prompt, x, jnp.where(visual[None], levels[:, block], 0) if len(levels) else None


def abstract(config: QwenVLConfig) -> tuple[Any, Any]:
    """Structure and parameters of the model, as shapes."""
    return nnx.split(nnx.eval_shape(lambda: QwenVL(config, traced_keys(0))))
