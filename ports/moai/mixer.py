"""The mixers: six low-rank attention experts, and the gate weights or the given weights that combine them.

A mixer replaces the normalized state h, not the residual stream. Both sides read h before mixing, attention has no
causal mask, and every expert includes the identity: weights that sum to one give h plus weighted corrections; other
weights rescale h.

Axis letters: N image rows, T text rows, Q queries, S keys, Z latents, D width, 3 experts a side: auxiliary inputs, the
other modality, the side itself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import linear
from ports.moai.batch import ExpertOutputs
from ports.moai.config import MoAIConfig
from ports.moai.layer import InternLM2Layer
from r2t2_jax.routing import Routing


class LowRank(nnx.Module):
    """gelu(up(down(x))), exact GELU."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.down = linear(config.width, config.expert_rank, rngs, config.dtype, bias=False)
        self.up = linear(config.expert_rank, config.width, rngs, config.dtype, bias=False)

    def __call__(self, x: Float[Array, "S D"]) -> Float[Array, "S D"]:
        return jax.nn.gelu(self.up(self.down(x)), approximate=False)


class AttentionExpert(nnx.Module):
    """x + o_proj(attention(q_proj(x), k_proj(source), v_proj(source)))."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.q_proj = LowRank(config, rngs)
        self.k_proj = LowRank(config, rngs)
        self.v_proj = LowRank(config, rngs)
        self.o_proj = LowRank(config, rngs)

    def __call__(
        self, x: Float[Array, "Q D"], source: Float[Array, "S D"], mask: Bool[Array, "1 S"] | None
    ) -> Float[Array, "Q D"]:
        projected = (self.q_proj(x), self.k_proj(source), self.v_proj(source))
        query, keys, values = (split_heads(part, self.config.expert_heads) for part in projected)
        return x + self.o_proj(join_heads(attend(query, keys, values, mask)))


class MixerWeights(NamedTuple):
    """The weight of each expert's output in every row."""

    image: Float[Array, "3 N"]
    language: Float[Array, "3 T"]

    def mean(self, language: Bool[Array, "T"]) -> Float[Array, "6"]:
        """Mean over image tokens, and over the language tokens that are mixed."""
        text = jnp.where(language[None], self.language, 0.0).sum(axis=1) / jnp.maximum(language.sum(), 1)
        return jnp.concatenate([self.image.mean(axis=1), text])


class MixerGates(nnx.Module):
    """Logits over the three experts of each side, one linear map each."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.image = linear(config.width, 3, rngs, config.dtype)
        self.language = linear(config.width, 3, rngs, config.dtype)


class MoAIMixer(nnx.Module):
    """Six experts and two gates."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.img_aux, self.img_lang, self.img_self = (AttentionExpert(config, rngs) for _ in range(3))
        self.lang_aux, self.lang_img, self.lang_self = (AttentionExpert(config, rngs) for _ in range(3))
        self.gates = MixerGates(config, rngs)

    @jax.named_scope("mixer_experts")
    def run_experts(
        self, h: Float[Array, "N+T D"], latents: Float[Array, "Z D"], language: Bool[Array, "T"]
    ) -> ExpertOutputs:
        """The outputs of all six experts; text rows outside `language` are masked as keys."""
        image, text = jnp.split(h, [self.config.image_tokens])  # [N, D], [T, D]
        mask = language[None]
        return ExpertOutputs(
            jnp.stack(
                [
                    self.img_aux(image, latents, None),
                    self.img_lang(image, text, mask),
                    self.img_self(image, image, None),
                ]
            ),
            jnp.stack(
                [
                    self.lang_aux(text, latents, None),
                    self.lang_img(text, image, None),
                    self.lang_self(text, text, mask),
                ]
            ),
        )

    @jax.named_scope("mixer_gates")
    def gate_weights(self, h: Float[Array, "N+T D"], routing: Routing | None) -> MixerWeights:
        """The weights of each row.

        Args:
            h: the normalized state.
            routing: this mixer's row [6] of the routing weights; `None` uses the gates' own weights.
        """
        image, text = jnp.split(h, [self.config.image_tokens])
        shape = (3, image.shape[0]), (3, text.shape[0])
        if routing is not None and routing.mode == "replace":
            values = routing.values[:, None]  # [6, 1]
            return MixerWeights(jnp.broadcast_to(values[:3], shape[0]), jnp.broadcast_to(values[3:], shape[1]))
        shift = jnp.zeros(6) if routing is None else routing.values
        return MixerWeights(
            self._softmax(self.gates.image(image), shift[:3]), self._softmax(self.gates.language(text), shift[3:])
        )

    def _softmax(self, logits: Float[Array, "S 3"], shift: Float[Array, "3"]) -> Float[Array, "3 S"]:
        """In float32; with float16 gates, logits and weights are rounded to it, as the released evaluation does."""
        shifted = (logits.astype(jnp.float32) + shift[None]).astype(self.config.gate_dtype)
        weights = jax.nn.softmax(shifted.astype(jnp.float32), axis=-1).astype(self.config.gate_dtype)
        return weights.astype(jnp.float32).T

    def combine_experts(
        self, h: Float[Array, "N+T D"], outputs: ExpertOutputs, weights: MixerWeights, language: Bool[Array, "T"]
    ) -> Float[Array, "N+T D"]:
        """The weighted sums in place of h, on image rows and on the text rows in `language`."""
        image, text = (
            (weight[:, :, None] * output.astype(jnp.float32)).sum(axis=0).astype(h.dtype)
            for weight, output in zip(weights, outputs, strict=True)
        )
        text = jnp.where(language[:, None], text, h[self.config.image_tokens :])
        return jnp.concatenate([image, text])


class MixerLayer(InternLM2Layer):
    """A decoder layer with a mixer between its first norm and its attention."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.mixer = MoAIMixer(config, rngs)
