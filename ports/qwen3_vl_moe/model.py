"""Qwen3-VL-MoE as a routed model: the vision tower in front of the decoder that the text models share.

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
from ports.common.moe_lm.model import Prompt, RoutedLM
from ports.qwen3_vl_moe.config import Qwen3VLMoEConfig
from ports.qwen3_vl_moe.vision import Patches, VisionTower


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VLInputs:
    """A prompt and the patches of its images, in the order in which their tokens stand."""

    prompt: Prompt
    patches: Patches


class Qwen3VLMoE(nnx.Module):
    """Tower and decoder."""

    def __init__(self, config: Qwen3VLMoEConfig, rngs: nnx.Rngs):
        self.visual = VisionTower(config.vision, rngs)
        self.decoder = MoEDecoder(config.decoder, rngs)


@dataclass(frozen=True)
class Qwen3VLMoEModel(RoutedLM):
    """The contract's functions on one traced sample."""

    def decoder(self, params: Any) -> MoEDecoder:
        """The decoder with its parameters."""
        return nnx.merge(self.graph, params).decoder

    def embed(self, params: Any, inputs: VLInputs) -> tuple[Prompt, Float[Array, "T D"], Float[Array, "J T D"] | None]:
        """Token embeddings, replaced by the tower's features at image tokens; DeepStack adds only there."""
        net: Qwen3VLMoE = nnx.merge(self.graph, params)
        prompt = inputs.prompt
        features, levels = net.visual(inputs.patches)  # [N/m, D], [J, N/m, D]
        block = jnp.clip(jnp.cumsum(prompt.visual) - 1, 0, len(features) - 1)  # [T]
        visual = prompt.visual[:, None]
        x = jnp.where(visual, features[block], net.decoder.embed(prompt.tokens))
        return prompt, x, jnp.where(visual[None], levels[:, block], 0)


def abstract(config: Qwen3VLMoEConfig) -> tuple[Any, Any]:
    """Structure and parameters of the model, as shapes."""
    return nnx.split(nnx.eval_shape(lambda: Qwen3VLMoE(config, traced_keys(0))))
