"""The MoAI model: the forward pass before routing (`encode`), and the prompt's under routing weights (`prefill`).

    encode    image ─► tower ─► projector ─────────────► [image | text] ─► layers 0..6 ─► layer 7's six experts
              segments' colors ─► the same two ────┐                                           ▲
              verbalization ─► token embeddings ───┴─► compressor ─► latents ──────────────────┘
    prefill   routing ─► combine experts, layers 7..31 with three more mixers ─► keys, values, the last row

Tokens after the prompt are run by `generate.py`. Image rows come first in memory; `SequenceLayout.positions` holds
their positions in the sequence, so nothing else depends on the order.

Axis letters: N image tokens, T text tokens, S = N + T, U verbalization tokens, Z latents, D width, L mixers, V
vocabulary.
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
from ports.moai.batch import ExpertOutputs, LayerCaches, MoAIFeatures, MoAIInputs, SequenceLayout
from ports.moai.config import MoAIConfig
from ports.moai.layer import InternLM2Layer
from ports.moai.mixer import MixerLayer
from ports.moai.vision import Compressor, MoAIVisionEncoder
from r2t2_jax.routing import Routing


class MoAINet(nnx.Module):
    """Every parameter of the model; the methods take one sample."""

    def __init__(self, config: MoAIConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = MoAIVisionEncoder(config, rngs)
        self.compressor = Compressor(config, rngs)
        self.embed_tokens = normal(rngs, (config.vocab_size + 1, config.width), config.dtype)
        plain = config.layers - config.mixers
        self.plain = stack(lambda rngs: InternLM2Layer(config, rngs), plain, rngs) if plain else None
        self.mixed = stack(lambda rngs: MixerLayer(config, rngs), config.mixers, rngs)
        self.norm = RMSNorm(config.width, config.rms_eps, config.dtype)
        self.lm_head = linear(config.width, config.vocab_size, rngs, config.dtype, bias=False)

    # ---- before routing

    def encode(self, inputs: MoAIInputs) -> MoAIFeatures:
        """Everything that depends neither on routing nor on an answer."""
        image = self.vision.encode_image(inputs.image)  # [N, D]
        segments = self.vision.encode_segments(inputs.segments)  # [N, D]
        auxiliary = jnp.concatenate([self.embed(inputs.verbalization), segments])  # [U + N, D]
        mask = jnp.concatenate([inputs.verbalization_mask, jnp.ones(segments.shape[0], bool)])
        return self.encode_prompt(image, self.compressor(auxiliary, mask), inputs)

    def embed(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        return self.embed_tokens[...][tokens]

    @jax.named_scope("prompt")
    def encode_prompt(
        self, image: Float[Array, "N D"], latents: Float[Array, "Z D"], inputs: MoAIInputs
    ) -> MoAIFeatures:
        """The layers before the first mixer, and the first mixer's experts; of `inputs` only the text is used."""
        layout = sequence_layout(inputs, self.config.image_tokens)
        x = jnp.concatenate([image, self.embed(inputs.tokens)])  # [S, D]
        x, past = self._run_plain(jnp.arange(self.config.plain_layers), x, layout)
        first = layer_at(self.mixed, 0)
        outputs = first.mixer.run_experts(first.input_layernorm(x), latents, layout.language)
        return MoAIFeatures(layout=layout, stream=x, outputs=outputs, latents=latents, past=past)

    # ---- under routing weights

    @jax.named_scope("prompt")
    def prefill(
        self, features: MoAIFeatures, routing: Routing | None, every_row: bool = False
    ) -> tuple[Float[Array, "rows D"], LayerCaches, Float[Array, "L 6"]]:
        """The prompt's forward pass from the first mixer on.

        Args:
            features: of the sample.
            routing: `None` for the gates' own weights.
            every_row: compute all rows of the last layer; otherwise only the last row, which predicts the answer.

        Returns:
            The residual stream after the last layer, of all rows or the last; keys and values of all layers; and the
            token means of the routing weights in effect.
        """
        config, layout = self.config, features.layout
        whole = config.mixers if config.tail_layers or every_row else config.mixers - 1
        x, caches, means = features.stream, _CacheBuilder(), []

        def group(x: Array, number: Array, last: bool = False) -> tuple[Array, tuple[KVCache, KVCache, Array]]:
            layers = (number * config.plain_layers) + jnp.arange(config.plain_layers)
            x, plain = self._run_plain(layers, x, layout)
            x, mixed, weights = self._run_mixed(number, x, features, routing, None, last)
            return x, (plain, mixed, weights)

        x, kv, weights = self._run_mixed(jnp.asarray(0), x, features, routing, features.outputs, last=whole == 0)
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
            x = self._run_tail(x, layout, caches, every_row)
        return x, caches.joined(), jnp.concatenate(means)

    @jax.named_scope("lm_head")
    def logits(self, x: Float[Array, "T D"]) -> Float[Array, "T V"]:
        """Next-token logits, in float32."""
        return self.lm_head(self.norm(x)).astype(jnp.float32)

    def _run_tail(
        self, x: Float[Array, "S D"], layout: SequenceLayout, caches: _CacheBuilder, every_row: bool
    ) -> Float[Array, "rows D"]:
        """The layers after the last mixer; their keys and values are added to `caches`."""
        config = self.config
        first = config.mixers * config.plain_layers
        full = config.tail_layers if every_row else config.tail_layers - 1
        x, plain = self._run_plain(first + jnp.arange(full), x, layout)
        caches.add(plain)
        if every_row:
            return x

        def last(x: Array) -> tuple[Array, KVCache]:
            layer = layer_at(self.plain, first + full)
            return self._run_last(layer, x, layer.input_layernorm(x), layout)

        x, kv = self.remat(last)(x)
        caches.add(_stacked(kv))
        return x

    def _run_plain(self, numbers: Int[Array, "layers"], x: Array, layout: SequenceLayout) -> tuple[Array, KVCache]:
        """Layers without a mixer; `numbers` counts these layers only."""
        if not len(numbers):
            empty = jnp.zeros((0, x.shape[0], self.config.kv_heads, self.config.head_size), x.dtype)
            return x, KVCache(empty, empty)

        def step(x: Array, number: Array) -> tuple[Array, KVCache]:
            layer = layer_at(self.plain, number)
            return self.run_layer(layer, x, layer.input_layernorm(x), layout)

        return jax.lax.scan(self.remat(step), x, numbers)

    def _run_mixed(
        self,
        number: Int[Array, ""],
        x: Float[Array, "S D"],
        features: MoAIFeatures,
        routing: Routing | None,
        outputs: ExpertOutputs | None,
        last: bool,
    ) -> tuple[Array, KVCache, Float[Array, "6"]]:
        """A layer with a mixer; `outputs` are its experts' outputs if they are already computed."""

        def step(x: Array, outputs: ExpertOutputs | None, routing: Routing | None) -> tuple[Array, KVCache, Array]:
            layer, language = layer_at(self.mixed, number), features.layout.language
            h = layer.input_layernorm(x)
            if outputs is None:
                outputs = layer.mixer.run_experts(h, features.latents, language)
            row = None if routing is None else Routing(routing.values[number], routing.mode)
            weights = layer.mixer.gate_weights(h, row)
            h = layer.mixer.combine_experts(h, outputs, weights, language)
            x, kv = (self._run_last if last else self.run_layer)(layer, x, h, features.layout)
            return x, kv, weights.mean(language)

        return self.remat(step)(x, outputs, routing)

    def remat(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step` with the activations that `config.remat` names recomputed in the backward pass."""
        return recomputed(step, self.config.remat)

    def run_layer(
        self, layer: InternLM2Layer, x: Array, h: Array, layout: SequenceLayout
    ) -> tuple[Float[Array, "S D"], KVCache]:
        """A layer on every row of the prompt, given its normalized state h; its output, its keys and values."""
        images = self.config.image_tokens
        query, kv = layer.project(h, layout.positions, images)
        return layer.attend_and_mlp(x, query, kv, layout.visible(layout.positions), images), kv

    def _run_last(
        self, layer: InternLM2Layer, x: Array, h: Array, layout: SequenceLayout
    ) -> tuple[Float[Array, "1 D"], KVCache]:
        """A layer's output on the last row, a text token; keys and values of every row."""
        query, kv = layer.project_last(h, layout.positions, self.config.image_tokens)
        return layer.attend_and_mlp(x[-1:], query, kv, layout.visible(layout.positions[-1:]), 0), kv


class _CacheBuilder:
    """Collects keys and values in the order in which the layers run."""

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


def sequence_layout(inputs: MoAIInputs, images: int) -> SequenceLayout:
    """Positions of [image | text] rows, padding not counted.

    Upstream also counts the slots of left padding. Rotary attention depends on differences of positions only, so the
    two agree, and our numbers do not depend on the padding.
    """
    before = inputs.mask & inputs.before_image
    text = jnp.cumsum(inputs.mask) - 1 + jnp.where(inputs.before_image, 0, images)  # [T]
    positions = jnp.concatenate([before.sum() + jnp.arange(images), text])
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


def fake_inputs(config: MoAIConfig, text: int = 64, verbalization: int = 275) -> MoAIInputs:
    """Inputs of one sample: a gray image, an empty segment map, `text` tokens around the image."""
    size = (config.image_size, config.image_size)
    return MoAIInputs(
        image=jnp.full((*size, 3), 128, jnp.uint8),
        segments=jnp.zeros(size, jnp.uint8),
        tokens=jnp.full(text, config.bos_id, jnp.int32),
        mask=jnp.ones(text, bool),
        before_image=jnp.arange(text) < text // 4,
        language=jnp.ones(text, bool),
        verbalization=jnp.full(verbalization, config.bos_id, jnp.int32),
        verbalization_mask=jnp.ones(verbalization, bool),
    )
