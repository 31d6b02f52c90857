"""MoAI whole: what is known before routing is (`encode`), and the prompt's pass under a routing (`read`).

    encode    image ─► tower ─► projector ────────────► [image | text] ─► layers 0..6 ─► layer 7's six experts
              segments' colours ─► the same two ─┐                                            ▲
              verbalisation ─► word embeddings ──┴─► compressor ─► latents ───────────────────┘
    read      routing ─► mix, layers 7..31 with three more mixers ─► keys, values, the last row

Tokens after the prompt are `continuation.py`. Rows are kept image first; positions say where they stand in the
sequence, so nothing else depends on the order.

Axis letters: N image tokens, T text tokens, S = N + T, U verbalisation tokens, Z latents, D width, L mixers, P plain
layers before each mixer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ports.common.layers.decoder import KVCache
from ports.common.layers.linear import RMSNorm, linear, normal
from ports.common.layers.stack import layer_at, recomputed, stack, traced_keys
from ports.moai.batch import LayerCaches, MoAIFeatures, MoAIInputs, Outputs, SequenceLayout
from ports.moai.config import MoAIConfig
from ports.moai.layer import Layer
from ports.moai.mixer import MixedLayer
from ports.moai.vision import Compressor, Vision
from r2t2_jax.routing import Routing


class MoAINet(nnx.Module):
    """Every parameter of the model; the methods take one sample."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = Vision(config, rngs)
        self.compressor = Compressor(config, rngs)
        self.embed_tokens = normal(rngs, (config.vocab_size + 1, config.width), config.dtype)
        plain = config.layers - config.mixers
        self.plain = stack(lambda rngs: Layer(config, rngs), plain, rngs) if plain else None
        self.mixed = stack(lambda rngs: MixedLayer(config, rngs), config.mixers, rngs)
        self.norm = RMSNorm(config.width, config.rms_eps, config.dtype)
        self.lm_head = linear(config.width, config.vocab_size, rngs, config.dtype, bias=False)

    # ---- before routing

    def encode(self, inputs: MoAIInputs) -> MoAIFeatures:
        """Everything that depends neither on routing nor on an answer."""
        image = self.vision.see_image(inputs.image)  # [N, D]
        colours = self.vision.see_segments(inputs.segments)  # [N, D]
        auxiliary = jnp.concatenate([self.embed(inputs.verbalisation), colours])  # [U + N, D]
        seen = jnp.concatenate([inputs.verbalisation_mask, jnp.ones(colours.shape[0], bool)])
        return self.read_prompt(image, self.compressor(auxiliary, seen), inputs)

    def embed(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        return self.embed_tokens[...][tokens]

    def read_prompt(self, image: Float[Array, "N D"], latents: Float[Array, "Z D"], inputs: MoAIInputs) -> MoAIFeatures:
        """The layers before the first mixer, and the first mixer's experts; `inputs` for its text alone."""
        place = layout(inputs, self.config.image_tokens)
        x = jnp.concatenate([image, self.embed(inputs.tokens)])  # [S, D]
        x, past = self._plain(jnp.arange(self.config.plain_layers), x, place)
        first = layer_at(self.mixed, 0)
        outputs = first.mixer.experts(first.norm1(x), latents, place.language)
        return MoAIFeatures(layout=place, stream=x, outputs=outputs, latents=latents, past=past)

    # ---- under a routing

    def read(
        self, features: MoAIFeatures, routing: Routing | None, every_row: bool = False
    ) -> tuple[Float[Array, "rows D"], LayerCaches, Float[Array, "L 6"]]:
        """The prompt's pass from the first mixer on.

        Args:
            features: of the sample.
            routing: `None` for the gates' own choice.
            every_row: finish all rows of the last layer, not only the last, which alone predicts the answer.

        Returns:
            The residual stream behind the last layer, of all rows or the last; keys and values of all layers; and the
            token means of the weights in effect.
        """
        config, place = self.config, features.layout
        whole = config.mixers if config.tail_layers or every_row else config.mixers - 1
        x, caches, means = features.stream, _Pieces(), []

        def group(x: Array, number: Array, last: bool = False) -> tuple[Array, tuple[KVCache, KVCache, Array]]:
            layers = (number * config.plain_layers) + jnp.arange(config.plain_layers)
            x, plain = self._plain(layers, x, place)
            x, mixed, weights = self._mixed(number, x, features, routing, None, last)
            return x, (plain, mixed, weights)

        x, kv, weights = self._mixed(jnp.asarray(0), x, features, routing, features.outputs, last=whole == 0)
        caches.add(features.past, _stacked(kv))
        means.append(weights[None])
        if whole > 1:
            x, (plain, mixed, weights) = jax.lax.scan(group, x, jnp.arange(1, whole))
            caches.add(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), plain), mixed)
            means.append(weights)
        if 0 < whole < config.mixers:
            x, (plain, kv, weights) = group(x, jnp.asarray(config.mixers - 1), last=True)
            caches.add(plain, _stacked(kv))
            means.append(weights[None])
        if config.tail_layers:
            first = config.mixers * config.plain_layers
            full = config.tail_layers if every_row else config.tail_layers - 1
            x, plain = self._plain(first + jnp.arange(full), x, place)
            caches.add(plain)
            if not every_row:

                def last(x: Array) -> tuple[Array, KVCache]:
                    layer = layer_at(self.plain, first + full)
                    return self._run_last(layer, x, layer.norm1(x), place)

                x, kv = self.remat(last)(x)
                caches.add(_stacked(kv))
        return x, caches.joined(), jnp.concatenate(means)

    def logits(self, x: Float[Array, "T D"]) -> Float[Array, "T V"]:
        """Next-token logits, in float32."""
        return self.lm_head(self.norm(x)).astype(jnp.float32)

    def _plain(self, numbers: Int[Array, "layers"], x: Array, place: SequenceLayout) -> tuple[Array, KVCache]:
        """Layers without a mixer, by their numbers among those."""
        if not len(numbers):
            none = jnp.zeros((0, x.shape[0], self.config.kv_heads, self.config.head_size), x.dtype)
            return x, KVCache(none, none)

        def step(x: Array, number: Array) -> tuple[Array, KVCache]:
            layer = layer_at(self.plain, number)
            return self.run_layer(layer, x, layer.norm1(x), place)

        return jax.lax.scan(self.remat(step), x, numbers)

    def _mixed(
        self,
        number: Int[Array, ""],
        x: Float[Array, "S D"],
        features: MoAIFeatures,
        routing: Routing | None,
        outputs: Outputs | None,
        last: bool,
    ) -> tuple[Array, KVCache, Float[Array, "6"]]:
        """A layer with a mixer; `outputs` of its experts where they are known already."""

        def step(x: Array, outputs: Outputs | None, routing: Routing | None) -> tuple[Array, KVCache, Array]:
            layer, language = layer_at(self.mixed, number), features.layout.language
            h = layer.norm1(x)
            if outputs is None:
                outputs = layer.mixer.experts(h, features.latents, language)
            row = None if routing is None else Routing(routing.values[number], routing.mode)
            weights = layer.mixer.weigh(h, row)
            h = layer.mixer.mix(h, outputs, weights, language)
            x, kv = (self._run_last if last else self.run_layer)(layer, x, h, features.layout)
            return x, kv, weights.mean(language)

        return self.remat(step)(x, outputs, routing)

    def remat(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A layer of whose insides the backward pass computes again as much as the config says."""
        return recomputed(step, self.config.remat)

    def run_layer(self, layer: Layer, x: Array, h: Array, place: SequenceLayout) -> tuple[Float[Array, "S D"], KVCache]:
        """A layer on every row of the prompt, given its normalised state h; its output, its keys and values."""
        images = self.config.image_tokens
        query, own = layer.project(h, place.positions, images)
        return layer.finish(x, query, own, place.visible(place.positions), images), own

    def _run_last(self, layer: Layer, x: Array, h: Array, place: SequenceLayout) -> tuple[Float[Array, "1 D"], KVCache]:
        """Only the last row, a word, is finished; the others leave keys and values."""
        query, own = layer.project_last(h, place.positions, self.config.image_tokens)
        return layer.finish(x[-1:], query, own, place.visible(place.positions[-1:]), 0), own


class _Pieces:
    """Keys and values in the order in which the layers ran."""

    def __init__(self) -> None:
        self.plain: list[KVCache] = []
        self.mixed: list[KVCache] = []

    def add(self, plain: KVCache, mixed: KVCache | None = None) -> None:
        self.plain.append(plain)
        if mixed is not None:
            self.mixed.append(mixed)

    def joined(self) -> LayerCaches:
        def join(*parts: Array) -> Array:
            return jnp.concatenate(parts)

        return LayerCaches(jax.tree.map(join, *self.plain), jax.tree.map(join, *self.mixed))


def _stacked(kv: KVCache) -> KVCache:
    return jax.tree.map(lambda leaf: leaf[None], kv)


def layout(inputs: MoAIInputs, images: int) -> SequenceLayout:
    """Positions of [image | text] rows, padding not counted.

    Upstream counts the slots of left padding too. Rotary attention sees differences of positions only, so the two
    agree, and this way the numbers do not depend on the padding.
    """
    before = inputs.mask & inputs.before_image
    words = jnp.cumsum(inputs.mask) - 1 + jnp.where(inputs.before_image, 0, images)  # [T]
    positions = jnp.concatenate([before.sum() + jnp.arange(images), words])
    valid = jnp.concatenate([jnp.ones(images, bool), inputs.mask])
    return SequenceLayout(positions, valid, inputs.language & inputs.mask)


def create(config: MoAIConfig, rngs: nnx.Rngs) -> MoAINet:
    """The model with randomly initialized parameters."""
    return MoAINet(config, rngs)


@cache
def abstract(config: MoAIConfig) -> tuple[Any, Any]:
    """The graph definition of the model, and its parameters as `jax.ShapeDtypeStruct`s."""
    return nnx.split(nnx.eval_shape(lambda: MoAINet(config, traced_keys(0))))


def count_parameters(config: MoAIConfig) -> int:
    """The number of parameters, without CLIP's unused last norm."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract(config)[1]))


def fake_inputs(config: MoAIConfig, text: int = 64, verbalisation: int = 275) -> MoAIInputs:
    """Inputs of one sample: a gray image, an empty segment map, `text` tokens around the image."""
    size = (config.image_size, config.image_size)
    return MoAIInputs(
        image=jnp.full((*size, 3), 128, jnp.uint8),
        segments=jnp.zeros(size, jnp.uint8),
        tokens=jnp.full(text, config.bos_id, jnp.int32),
        mask=jnp.ones(text, bool),
        before_image=jnp.arange(text) < text // 4,
        language=jnp.ones(text, bool),
        verbalisation=jnp.full(verbalisation, config.bos_id, jnp.int32),
        verbalisation_mask=jnp.ones(verbalisation, bool),
    )
