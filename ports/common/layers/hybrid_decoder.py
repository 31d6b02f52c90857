"""The decoder of Qwen3.5-MoE: Gated DeltaNet in most layers, gated full attention in the others, routed experts in all.

Every layer has E routed experts and one shared expert with a sigmoid gate (transformers' `modeling_qwen3_5_moe.py`).
Norms are zero-centered. Full attention rotates the first entries of each head only and gates its output per head.
Norms and experts are stacked over all layers, the two kinds of mixers over the layers of their kind.

Axis letters: T rows that are run, S rows attended to, D width, r rotated entries of a head, E experts, C core experts.
One sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import causal_mask
from ports.common.layers.decoder import SwiGLU
from ports.common.layers.gated_attention import GatedAttention
from ports.common.layers.gated_delta import GatedDeltaNet
from ports.common.layers.hybrid_cache import HybridCache
from ports.common.layers.linear import ZeroCenteredRMSNorm, linear, normal
from ports.common.layers.moe import ExpertChoice
from ports.common.layers.moe_decoder import LayerOutput, MoEDecoder, MoEDecoderConfig, segments
from ports.common.layers.routed_experts import RoutedExperts, RoutedRows
from ports.common.layers.stack import layer_at, recomputed, stack
from r2t2_jax.routing import TokenSteering


@dataclass(frozen=True)
class HybridDecoderConfig(MoEDecoderConfig):
    """Sizes and rules of the decoder, besides those of `MoEDecoderConfig`.

    Args:
        full: indices of the layers with full attention, ascending; the others are Gated DeltaNet.
        rotated: entries of a head that are rotated.
        shared_hidden: width of the shared expert.
        key_heads, value_heads, key_width, value_width: of the delta rule.
        kernel: width of its convolution.
    """

    full: tuple[int, ...] = ()
    rotated: int = 0
    shared_hidden: int = 0
    key_heads: int = 0
    value_heads: int = 0
    key_width: int = 0
    value_width: int = 0
    kernel: int = 4

    def create(self, rngs: nnx.Rngs) -> HybridDecoder:
        """A decoder of these sizes."""
        return HybridDecoder(self, rngs)

    @property
    def rotary_width(self) -> int:
        """Entries of a head that are rotated, the first ones."""
        return self.rotated

    @cached_property
    def linear(self) -> tuple[int, ...]:
        """Indices of the layers with Gated DeltaNet."""
        return tuple(layer for layer in range(self.layers) if layer not in self.full)

    def place(self, layer: int) -> int:
        """Place of a layer's mixer among those of its kind."""
        return (self.full if layer in self.full else self.linear).index(layer)

    @cached_property
    def period(self) -> int:
        """The smallest number of layers after which the kinds repeat."""
        kinds = [layer in self.full for layer in range(self.layers)]
        return next(p for p in range(1, self.layers + 1) if kinds[p:] == kinds[: self.layers - p])

    def kinds(self, block: LayerBlock) -> dict[bool, int]:
        """The numbers of layers with full attention and of others in one repetition of a block."""
        full = sum(layer in self.full for layer in range(block.first, block.first + block.length))
        return {True: full, False: block.length - full}

    def blocks(self, start: int, stop: int, routed: Sequence[int]) -> list[LayerBlock]:
        """The layers from `start` to `stop` as repeated blocks, each all routed or all free."""
        blocks = []
        for first, last in segments(start, stop, routed, 0):
            count = (last - first) // self.period
            if count > 1:
                blocks.append(LayerBlock(first, self.period, count))
                first += self.period * count
            if first < last:
                blocks.append(LayerBlock(first, last - first, 1))
        return blocks


class LayerBlock(NamedTuple):
    """`repeats` repetitions of `length` layers, from layer `first` on."""

    first: int
    length: int
    repeats: int


class HybridLayer(RoutedExperts):
    """The part that layers of both kinds have: norms, routed experts, and a shared expert without imposed routing."""

    def __init__(self, config: HybridDecoderConfig, rngs: nnx.Rngs):
        dtype = config.dtype
        super().__init__(
            config.width, config.hidden, config.experts, config.top_k, config.normalize, rngs, dtype
        )  # fmt: skip
        self.input_layernorm = ZeroCenteredRMSNorm(config.width, config.eps, dtype)
        self.post_attention_layernorm = ZeroCenteredRMSNorm(config.width, config.eps, dtype)
        self.shared_expert = SwiGLU(config.width, config.shared_hidden, rngs, dtype)
        self.shared_expert_gate = linear(config.width, 1, rngs, dtype, bias=False)

    def mlp(
        self,
        h: Float[Array, "T D"],
        values: Array | TokenSteering | None,
        routed: RoutedRows | None,
        core: Int[Array, "C"] | None,
    ) -> tuple[Float[Array, "T D"], ExpertChoice, Float[Array, "T E"]]:
        """Routed and shared experts of normalized states; arguments and results as for `mix`."""
        mixed, choice, weights = self.mix(h, values, routed, core)
        with jax.named_scope("shared_expert"):
            gate = jax.nn.sigmoid(self.shared_expert_gate(h).astype(jnp.float32)).astype(h.dtype)
            return mixed + gate * self.shared_expert(h), choice, weights


class HybridDecoder(MoEDecoder):
    """Token embeddings, the layers as stacks, the final norm, and the output head."""

    config: HybridDecoderConfig
    layers: Any
    norm: Any

    def __init__(self, config: HybridDecoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.embed_tokens = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.layers = stack(lambda rngs: HybridLayer(config, rngs), config.layers, rngs)
        self.self_attn = stack(lambda rngs: _attention(config, rngs), len(config.full), rngs)
        self.linear_attn = stack(lambda rngs: _delta_net(config, rngs), len(config.linear), rngs)
        self.norm = ZeroCenteredRMSNorm(config.width, config.eps, config.dtype)
        if not config.tied:
            self.lm_head = linear(config.width, config.vocab_size, rngs, config.dtype, bias=False)

    def run(
        self,
        x: Float[Array, "T D"],
        positions: Int[Array, "3 T"],
        valid: Bool[Array, "S"],
        *,
        start: int = 0,
        stop: int | None = None,
        past: Any = None,  # a HybridCache
        slot: Int[Array, ""] | None = None,
        routed: RoutedRows | None = None,
        added: Array | None = None,
        record: bool = False,
    ) -> tuple[Float[Array, "T D"], LayerOutput]:
        """As `MoEDecoder.run`. Rows of padding enter no state; nothing can be added between layers."""
        config, outputs = self.config, []
        stop = config.layers if stop is None else stop
        rows = _Rows(
            config.angles(positions), causal_mask(valid)[-len(x) :] if slot is None else valid[None],
            valid[-len(x) :] if slot is None else jnp.ones(len(x), bool), slot, routed, record,
        )  # fmt: skip
        done = {True: 0, False: 0}  # layers of each kind before the block
        for block in config.blocks(start, stop, () if routed is None else routed.layers):
            imposed = None
            if routed is not None and block.first in routed.layers:
                index = routed.layers.index(block.first)
                layers = slice(index, index + block.length * block.repeats)
                values = jax.tree.map(lambda leaf, layers=layers: leaf[layers], routed.values)
                imposed = _Imposed(values, None if routed.core is None else routed.core[layers])
            numbers = {full: block.repeats * number for full, number in config.kinds(block).items()}
            cut = None if past is None else past.part(done, numbers)
            x, output = self._run_block(block, x, rows, cut, imposed)
            outputs.append(output)
            done = {full: done[full] + numbers[full] for full in done}
        return x, _concatenated(outputs)

    def _run_block(
        self, block: LayerBlock, x: Array, rows: _Rows, past: HybridCache | None, imposed: _Imposed | None
    ) -> tuple[Array, LayerOutput]:
        """Run a block's repetitions; leaves of the output have a leading axis over layers, or over those of a kind."""
        config, kinds = self.config, self.config.kinds(block)

        def repetition(x: Array, item: tuple[Array, HybridCache | None, _Imposed | None]) -> tuple[Array, LayerOutput]:
            """All layers of the block once."""
            (index, past, imposed), outputs = item, []
            done = {True: 0, False: 0}
            for full, group in groupby(range(block.length), lambda j: block.first + j in config.full):
                js = list(group)  # consecutive layers of one kind
                first, ahead = block.first + js[0], jnp.arange(len(js))
                part = None if past is None else past.part(done, {full: len(js), not full: 0})
                own = None if imposed is None else jax.tree.map(lambda leaf, js=js: leaf[js[0] : js[-1] + 1], imposed)
                items = _HybridLayerInput(
                    number=first + block.length * index + ahead,
                    place=config.place(first) + kinds[full] * index + ahead,
                    past=None if part is None else part.attention if full else part.delta,
                    imposed=own,
                )
                x, output = self._run_alike(full, x, rows, items)
                outputs.append(output)
                done[full] += len(js)
            return x, _concatenated(outputs)

        def split(leaf: Array) -> Array:
            return leaf.reshape(block.repeats, -1, *leaf.shape[1:])

        x, output = _scan(repetition, x, (jnp.arange(block.repeats), *jax.tree.map(split, (past, imposed))))
        return x, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), output)

    def _run_alike(self, full: bool, x: Array, rows: _Rows, items: _HybridLayerInput) -> tuple[Array, LayerOutput]:
        """Run consecutive layers of one kind."""

        def step(x: Array, item: _HybridLayerInput) -> tuple[Array, LayerOutput]:
            """One layer: the mixer of its kind, then the experts."""
            layer = layer_at(self.layers, item.number)
            h = layer.input_layernorm(x)
            with jax.named_scope("attention"):
                if full:
                    mixer = layer_at(self.self_attn, item.place)
                    mixed, keys_values = mixer(h, rows.angles, rows.mask, item.past, rows.slot)
                    cache = HybridCache(keys_values, None)
                else:
                    mixed, state = layer_at(self.linear_attn, item.place)(h, rows.valid, item.past)
                    cache = HybridCache(None, state)
            x = x + mixed
            values, core = (None, None) if item.imposed is None else item.imposed
            h = layer.post_attention_layernorm(x)
            mixed, choice, weights = layer.mlp(h, values, rows.routed, core)
            x = x + mixed
            recorded = x if rows.record else None
            return x, LayerOutput(cache, choice, weights, recorded, recorded, h[-1])

        return _scan(recomputed(step, "none"), x, items)


def _scan(body: Callable[[Array, Any], tuple[Array, Any]], x: Array, items: Any) -> tuple[Array, Any]:
    """As `jax.lax.scan`, without a loop for one item: what precedes its routed experts then needs no gradient."""
    if len(jax.tree.leaves(items)[0]) > 1:
        return jax.lax.scan(body, x, items)
    x, output = body(x, jax.tree.map(lambda leaf: leaf[0], items))
    return x, jax.tree.map(lambda leaf: leaf[None], output)


def _concatenated(outputs: Sequence[LayerOutput]) -> LayerOutput:
    """The outputs of successive layers, along the leading axis."""
    rest = [output._replace(cache=None) for output in outputs]
    joined = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rest)
    return joined._replace(cache=reduce(HybridCache.below, (output.cache for output in outputs)))


class _Imposed(NamedTuple):
    """Of each routed layer: the imposed values, and the core experts."""

    values: Array | TokenSteering
    core: Int[Array, "*layers C"] | None


class _HybridLayerInput(NamedTuple):
    """Of each layer: its index, the place of its mixer among those of its kind, its cache, and imposed routing."""

    number: Int[Array, "*layers"]
    place: Int[Array, "*layers"]
    past: Any
    imposed: _Imposed | None


class _Rows(NamedTuple):
    """The rows that are run, for all layers: angles, masks, and the routing imposed on them."""

    angles: Float[Array, "T r/2"]
    mask: Bool[Array, "T S"]
    valid: Bool[Array, "T"]
    slot: Int[Array, ""] | None
    routed: RoutedRows | None
    record: bool


def _attention(config: HybridDecoderConfig, rngs: nnx.Rngs) -> GatedAttention:
    return GatedAttention(
        config.width, config.heads, config.kv_heads, config.head_width, config.eps, config.attention_block, rngs,
        config.dtype,
    )  # fmt: skip


def _delta_net(config: HybridDecoderConfig, rngs: nnx.Rngs) -> GatedDeltaNet:
    return GatedDeltaNet(
        config.width, config.key_heads, config.value_heads, config.key_width, config.value_width, config.kernel,
        config.eps, rngs, config.dtype,
    )  # fmt: skip
