"""The decoder of Qwen3-MoE, Qwen3-VL-MoE and OLMoE: every layer's MLP is a mixture of experts with routing as an input.

RMS norm, grouped-query attention with norms of queries and keys and rotary positions, a gate and E experts in each
layer (transformers' `modeling_qwen3_moe.py`, `modeling_qwen3_vl_moe.py`, `modeling_olmoe.py`).

Axis letters: T tokens that are run, S tokens attended to, N layers, D width, H query heads, G key-value heads, d head
width, L routed layers, E experts, k chosen experts, J levels added to the first layers (DeepStack). One sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import BLOCK, attend_causal, causal_mask, join_heads, split_heads
from ports.common.layers.decoder import KVCache
from ports.common.layers.linear import RMSNorm, linear, normal
from ports.common.layers.moe import ExpertChoice
from ports.common.layers.rotary import frequencies, rotate_by
from ports.common.layers.routed_experts import RoutedExperts, RoutedRows
from ports.common.layers.stack import scan_layers, stack, traced_keys
from r2t2_jax.routing import TokenSteering


@dataclass(frozen=True)
class MoEDecoderConfig:
    """Sizes and rules of the decoder.

    Args:
        vocab_size, width, layers, heads, kv_heads, head_width: V, D, N, H, G, d.
        experts, top_k, hidden: E, k, and the width of an expert.
        theta: base of the rotary frequencies.
        eps: of all norms.
        normalize: divide the chosen experts' probabilities by their sum.
        qk_norm: norm of queries and keys over each `head`, or over the `whole` width before it is split into heads.
        sections: frequencies of the axes time, height and width (interleaved M-RoPE); empty for one axis.
        max_positions: the longest sequence.
        tied: the output head is the token embeddings, transposed.
        dtype: of parameters and activations.
        attention_block: rows of a causal prompt whose attention is computed at a time.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    experts: int
    top_k: int
    hidden: int
    theta: float
    eps: float = 1e-6
    normalize: bool = True
    qk_norm: Literal["head", "whole"] = "head"
    sections: tuple[int, ...] = ()
    max_positions: int = 4096
    tied: bool = False
    dtype: str = "float32"
    attention_block: int = BLOCK

    def create(self, rngs: nnx.Rngs) -> MoEDecoder:
        """A decoder of these sizes."""
        return MoEDecoder(self, rngs)

    @property
    def rotary_width(self) -> int:
        """Entries of a head that are rotated, the first ones."""
        return self.head_width

    def axes(self) -> list[int]:
        """The position axis of each frequency: height at 1, 4, 7, ..., width at 2, 5, 8, ..., else time."""
        half = self.rotary_width // 2
        if not self.sections:
            return [0] * half
        return [j % 3 if j % 3 and j < 3 * self.sections[j % 3] else 0 for j in range(half)]

    def angles(self, positions: Int[Array, "3 T"]) -> Float[Array, "T r/2"]:
        """Rotary angles of tokens at positions (time, height, width)."""
        by_frequency = positions.astype(jnp.float32)[jnp.asarray(self.axes())]  # [r/2, T]
        return by_frequency.T * frequencies(self.rotary_width, self.theta)[None]


class LayerOutput(NamedTuple):
    """Of each layer that was run: new keys and values, the gate's choice, and with `record` the states after it.

    `weights` are the combine weights in effect [T, E]; `before` the state before DeepStack's addition; `read` what the
    gate reads in the last row.
    """

    cache: Any
    choice: ExpertChoice
    weights: Float[Array, "*N T E"]
    state: Float[Array, "*N T D"] | None
    before: Float[Array, "*N T D"] | None
    read: Float[Array, "*N D"]


class _LayerInput(NamedTuple):
    past: KVCache | None
    values: Array | TokenSteering | None
    core: Int[Array, "*N C"] | None
    added: Float[Array, "*N T D"] | None


class MoEDecoderLayer(RoutedExperts):
    """x += attention(input_layernorm(x)); x += experts(post_attention_layernorm(x))."""

    def __init__(self, config: MoEDecoderConfig, rngs: nnx.Rngs):
        self.config = config
        inner, shared, dtype = config.heads * config.head_width, config.kv_heads * config.head_width, config.dtype
        widths = (config.head_width,) * 2 if config.qk_norm == "head" else (inner, shared)
        self.input_layernorm = RMSNorm(config.width, config.eps, dtype)
        self.q_proj = linear(config.width, inner, rngs, dtype, bias=False)
        self.k_proj = linear(config.width, shared, rngs, dtype, bias=False)
        self.v_proj = linear(config.width, shared, rngs, dtype, bias=False)
        self.q_norm = RMSNorm(widths[0], config.eps, dtype)
        self.k_norm = RMSNorm(widths[1], config.eps, dtype)
        self.o_proj = linear(inner, config.width, rngs, dtype, bias=False)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps, dtype)
        super().__init__(
            config.width, config.hidden, config.experts, config.top_k, config.normalize, rngs, dtype
        )  # fmt: skip

    def project(
        self, x: Float[Array, "T D"], angles: Float[Array, "T d/2"]
    ) -> tuple[Float[Array, "T H d"], Float[Array, "T G d"], Float[Array, "T G d"]]:
        """Normalized and rotated queries and keys, and values."""
        h = self.input_layernorm(x)

        def heads(projection: nnx.Linear, norm: RMSNorm, number: int) -> Array:
            y = projection(h)
            y = split_heads(norm(y), number) if self.config.qk_norm == "whole" else norm(split_heads(y, number))
            return rotate_by(y, angles)

        query = heads(self.q_proj, self.q_norm, self.config.heads)
        key = heads(self.k_proj, self.k_norm, self.config.kv_heads)
        return query, key, split_heads(self.v_proj(h), self.config.kv_heads)


class MoEDecoder(nnx.Module):
    """Token embeddings, the layers as a scanned stack, the final norm, and the output head."""

    def __init__(self, config: MoEDecoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.embed_tokens = normal(rngs, (config.vocab_size, config.width), config.dtype)
        self.layers = stack(lambda rngs: MoEDecoderLayer(config, rngs), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.eps, config.dtype)
        if not config.tied:
            self.lm_head = linear(config.width, config.vocab_size, rngs, config.dtype, bias=False)

    def embed(self, tokens: Int[Array, "T"]) -> Float[Array, "T D"]:
        """Embeddings of the tokens."""
        return self.embed_tokens[...][tokens]

    def logits(self, x: Float[Array, "T D"]) -> Float[Array, "T V"]:
        """Logits in float32 from states after the last layer."""
        with jax.named_scope("head"):
            x = self.norm(x)
            logits = x @ self.embed_tokens[...].T if self.config.tied else self.lm_head(x)
            return logits.astype(jnp.float32)

    def run(
        self,
        x: Float[Array, "T D"],
        positions: Int[Array, "3 T"],
        valid: Bool[Array, "S"],
        *,
        start: int = 0,
        stop: int | None = None,
        past: KVCache | None = None,
        slot: Int[Array, ""] | None = None,
        routed: RoutedRows | None = None,
        added: Float[Array, "J T D"] | None = None,
        record: bool = False,
    ) -> tuple[Float[Array, "T D"], LayerOutput]:
        """Run rows through the layers from `start` to `stop`.

        Args:
            x: states in front of layer `start`.
            positions: of the rows.
            valid: True for real tokens among [cached rows | these rows], False for padding. A row attends to itself
                and to the real tokens before it.
            start, stop: the layers, as in a slice.
            past: keys and values of earlier rows in these layers.
            slot: with a padded cache, where the keys and values of the single row go; `valid` then covers the cache.
            routed: imposed routing; its layers need not be among those that are run.
            added: what is added to the states after the first J of these layers.
            record: also return the states after each layer.

        Returns:
            The states after the last layer that was run, and each layer's output with a leading axis over the layers.
            With `slot` the caches are whole.
        """
        angles, stop = self.config.angles(positions), self.config.layers if stop is None else stop
        mask = causal_mask(valid)[-len(x) :] if slot is None else valid[None]  # [T, S]

        def step(layer: MoEDecoderLayer, x: Array, layer_input: _LayerInput) -> tuple[Array, LayerOutput]:
            """One layer; with its output for the caller."""
            past, values, core, addition = layer_input
            with jax.named_scope("attention"):
                query, key, value = layer.project(x, angles)
                new, cache = KVCache(key, value).after(past, slot)
                ordered, before = (len(x), cache.keys.shape[0] - len(x)) if slot is None else (0, 0)
                attended = attend_causal(
                    query, cache.keys, cache.values, mask, ordered, self.config.attention_block, before
                )
                x = x + layer.o_proj(join_heads(attended))
            h = layer.post_attention_layernorm(x)
            mixed, choice, weights = layer.mix(h, values, routed, core)
            x = x + mixed
            state = x if addition is None else x + addition
            recorded = (state, x) if record else (None, None)
            return state, LayerOutput(new, choice, weights, recorded[0], recorded[1], h[-1])

        outputs = []
        routed_layers = () if routed is None else routed.layers
        for first, last in segments(start, stop, routed_layers, 0 if added is None else len(added)):
            span = slice(first - start, last - start)
            cut = None if past is None else jax.tree.map(lambda leaf, span=span: leaf[span], past)
            values, core = None, None
            if routed is not None and first in routed_layers:
                index = routed_layers.index(first)
                values = jax.tree.map(lambda leaf, i=index, n=last - first: leaf[i : i + n], routed.values)
                core = None if routed.core is None else routed.core[index : index + last - first]
            addition = None if added is None or span.start >= len(added) else added[span]
            x, output = scan_layers(
                self.layers, step, x, _LayerInput(cut, values, core, addition), start=first, stop=last
            )  # fmt: skip
            outputs.append(output)
        return x, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)


def segments(start: int, stop: int, routed: Sequence[int], added: int) -> list[tuple[int, int]]:
    """Runs of layers that are all routed or all free, and all with or all without an addition."""
    kinds = [(layer in routed, layer - start < added) for layer in range(start, stop)]
    cuts = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
    edges = [0, *cuts, len(kinds)]
    return [(start + first, start + last) for first, last in pairwise(edges)]


def abstract(config: MoEDecoderConfig) -> tuple[Any, Any]:
    """Structure and parameters of the decoder, as shapes."""
    return nnx.split(nnx.eval_shape(lambda: config.create(traced_keys(0))))
