"""The mixers: six low-rank attention experts, and the gates or the explicit weights that add them up.

A mixer replaces the normalised state h, not the residual stream. Both sides read h as it was before mixing, nothing is
causal, and every expert holds the identity: weights that sum to one give h plus weighted corrections, others rescale h.

Axis letters: N image rows, T text rows, Q queries, S keys, Z latents, D width, 3 experts a side: auxiliary inputs, the
other modality, itself.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import linear
from ports.moai.batch import Outputs
from ports.moai.config import MoAIConfig
from ports.moai.layer import Layer
from r2t2_jax.routing import Routing


class LowRank(nnx.Module):
    """gelu(up(down(x))): the exact GELU after the second factor, none between them."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.down = linear(config.width, config.expert_rank, rngs, config.dtype, bias=False)
        self.up = linear(config.expert_rank, config.width, rngs, config.dtype, bias=False)

    def __call__(self, x: Float[Array, "S D"]) -> Float[Array, "S D"]:
        return jax.nn.gelu(self.up(self.down(x)), approximate=False)


class Expert(nnx.Module):
    """x + out(attention(query(x), key(seen), value(seen)))."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.query = LowRank(config, rngs)
        self.key = LowRank(config, rngs)
        self.value = LowRank(config, rngs)
        self.out = LowRank(config, rngs)

    def __call__(
        self, x: Float[Array, "Q D"], seen: Float[Array, "S D"], mask: Bool[Array, "1 S"] | None
    ) -> Float[Array, "Q D"]:
        heads = self.config.expert_heads
        query, keys, values = (split_heads(part, heads) for part in (self.query(x), self.key(seen), self.value(seen)))
        return x + self.out(join_heads(attend(query, keys, values, mask)))


class Weights(NamedTuple):
    """What each expert's output counts, a row; one column where all rows share them."""

    image: Float[Array, "3 N"]
    language: Float[Array, "3 T"]

    def mean(self, language: Bool[Array, "T"]) -> Float[Array, "6"]:
        """Mean over image tokens and over the language tokens that are mixed."""
        words = jnp.where(language[None], self.language, 0.0).sum(axis=1) / jnp.maximum(language.sum(), 1)
        return jnp.concatenate([self.image.mean(axis=1), words])


class Gates(nnx.Module):
    """Logits over the three experts of each side, a linear map each."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.image = linear(config.width, 3, rngs, config.dtype)
        self.language = linear(config.width, 3, rngs, config.dtype)


class Mixer(nnx.Module):
    """Six experts and two gates."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.img_aux, self.img_lang, self.img_self = (Expert(config, rngs) for _ in range(3))
        self.lang_aux, self.lang_img, self.lang_self = (Expert(config, rngs) for _ in range(3))
        self.gates = Gates(config, rngs)

    def experts(self, h: Float[Array, "N+T D"], latents: Float[Array, "Z D"], language: Bool[Array, "T"]) -> Outputs:
        """All six experts; text rows outside `language` are not looked at."""
        image, words = jnp.split(h, [self.config.image_tokens])  # [N, D], [T, D]
        visible = language[None]
        return Outputs(
            jnp.stack(
                [
                    self.img_aux(image, latents, None),
                    self.img_lang(image, words, visible),
                    self.img_self(image, image, None),
                ]
            ),
            jnp.stack(
                [
                    self.lang_aux(words, latents, None),
                    self.lang_img(words, image, None),
                    self.lang_self(words, words, visible),
                ]
            ),
        )

    def weigh(self, h: Float[Array, "N+T D"], routing: Routing | None) -> Weights:
        """The weights of each row; `routing` is this mixer's row [6], and `None` is the gates' own choice."""
        image, words = jnp.split(h, [self.config.image_tokens])
        shape = (3, image.shape[0]), (3, words.shape[0])
        if routing is not None and routing.mode == "replace":
            values = routing.values[:, None]  # [6, 1]
            return Weights(jnp.broadcast_to(values[:3], shape[0]), jnp.broadcast_to(values[3:], shape[1]))
        shift = jnp.zeros(6) if routing is None else routing.values
        return Weights(
            self._softmax(self.gates.image(image), shift[:3]), self._softmax(self.gates.language(words), shift[3:])
        )

    def _softmax(self, logits: Float[Array, "S 3"], shift: Float[Array, "3"]) -> Float[Array, "3 S"]:
        """In float32; with float16 gates, logits and weights are rounded to it, as the released evaluation does."""
        shifted = (logits.astype(jnp.float32) + shift[None]).astype(self.config.gate_dtype)
        weights = jax.nn.softmax(shifted.astype(jnp.float32), axis=-1).astype(self.config.gate_dtype)
        return weights.astype(jnp.float32).T

    def mix(
        self, h: Float[Array, "N+T D"], outputs: Outputs, weights: Weights, language: Bool[Array, "T"]
    ) -> Float[Array, "N+T D"]:
        """The weighted sums in place of h, on image rows and on the text rows in `language`."""
        image, words = (
            (weight[:, :, None] * output.astype(jnp.float32)).sum(axis=0).astype(h.dtype)
            for weight, output in zip(weights, outputs, strict=True)
        )
        words = jnp.where(language[:, None], words, h[self.config.image_tokens :])
        return jnp.concatenate([image, words])


class MixedLayer(Layer):
    """A decoder layer with a mixer between its first norm and its attention."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.mixer = Mixer(config, rngs)
