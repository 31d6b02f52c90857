"""Gated DeltaNet: linear attention whose state decays and is corrected by each row (Qwen3.5's `linear_attn`).

Per value head and row: S <- exp(g) S; S <- S + k (beta (v - S^T k))^T; o = S^T q (Yang et al., arXiv:2412.06464).
`chunked` computes it by products inside chunks of rows (transformers' `torch_chunk_gated_delta_rule`), for prompts;
`step` for one row; both in float32. Rows of padding have g = beta = 0: they change no state, on either side.

Axis letters: T rows, D width, G key heads, H value heads, a key width, b value width, C = 2 G a + H b channels,
w width of the convolution, n chunks, c rows of a chunk. One sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from ports.common.layers.attention import join_heads, split_heads
from ports.common.layers.linear import RMSNorm, along_last, linear, normal

CHUNK = 64
L2_EPS = 1e-6  # under the root of the norms of queries and keys


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeltaState:
    """The state of a layer, or of a stack of layers, after earlier rows.

    Args:
        conv: the last rows of the convolution's input.
        recurrent: S, in float32.
    """

    conv: Float[Array, "*layers w-1 C"]
    recurrent: Float[Array, "*layers H a b"]


class DeltaRows(NamedTuple):
    """Inputs of the delta rule in float32: normalized and scaled queries, normalized keys, values, log decay, beta."""

    query: Float[Array, "T H a"]
    key: Float[Array, "T H a"]
    value: Float[Array, "T H b"]
    g: Float[Array, "T H"]
    beta: Float[Array, "T H"]


def step(row: DeltaRows, state: Float[Array, "H a b"]) -> tuple[Float[Array, "H b"], Float[Array, "H a b"]]:
    """The output of one row (leaves without the axis T), and the state after it."""
    with jax.default_matmul_precision("highest"):
        state = state * jnp.exp(row.g)[:, None, None]
        correction = (row.value - jnp.einsum("hab,ha->hb", state, row.key)) * row.beta[:, None]
        state = state + jnp.einsum("ha,hb->hab", row.key, correction)
        return jnp.einsum("hab,ha->hb", state, row.query), state


def stepwise(rows: DeltaRows, state: Float[Array, "H a b"]) -> tuple[Float[Array, "T H b"], Float[Array, "H a b"]]:
    """Outputs of all rows, one after the other, and the last state."""

    def scanned(state: Array, row: DeltaRows) -> tuple[Array, Array]:
        output, state = step(row, state)
        return state, output

    state, outputs = jax.lax.scan(scanned, state, rows)
    return outputs, state


def chunked(
    rows: DeltaRows, state: Float[Array, "H a b"], size: int = CHUNK
) -> tuple[Float[Array, "T H b"], Float[Array, "H a b"]]:
    """As `stepwise`, by products inside chunks of at most `size` rows; only the state passes from chunk to chunk.

    Inside a chunk the corrections solve a unit lower triangular system, since each depends on those before it.
    """
    length = len(rows.g)
    size = min(size, length)
    number = -(-length // size)
    with jax.default_matmul_precision("highest"), jax.named_scope("delta_rule"):
        query, key, value, g, beta = (_in_chunks(leaf, number, size) for leaf in rows)  # [n, H, c, ...]
        g = jnp.cumsum(g, axis=-1)  # [n, H, c]
        lower = jnp.tril(jnp.ones((size, size), bool)).reshape(1, 1, size, size)
        decay = jnp.exp(jnp.where(lower, g[..., :, None] - g[..., None, :], -jnp.inf))  # [n, H, c, c]
        weighted = key * beta[..., None]
        system = jnp.tril(jnp.einsum("nhia,nhja->nhij", weighted, key) * decay, -1)
        right = jnp.concatenate([value * beta[..., None], weighted * jnp.exp(g)[..., None]], axis=-1)
        solved = solve_triangular(system, right, lower=True, unit_diagonal=True)  # [n, H, c, b + a]
        own, from_state = jnp.split(solved, [value.shape[-1]], axis=-1)
        inside = jnp.einsum("nhia,nhja->nhij", query, key) * decay

        def chunk(state: Array, item: tuple[Array, ...]) -> tuple[Array, Array]:
            query, key, g, own, from_state, inside = item
            corrections = own - jnp.einsum("hca,hab->hcb", from_state, state)
            outputs = jnp.einsum("hca,hab->hcb", query * jnp.exp(g)[..., None], state)
            outputs = outputs + jnp.einsum("hij,hjb->hib", inside, corrections)
            last = g[:, -1:]  # [H, 1]
            state = state * jnp.exp(last)[..., None]
            return state + jnp.einsum("hca,hcb->hab", key * jnp.exp(last - g)[..., None], corrections), outputs

        items = (query, key, g, own, from_state, inside)
        if number == 1:
            state, outputs = chunk(state, tuple(leaf[0] for leaf in items))
            return outputs.swapaxes(0, 1), state
        state, outputs = jax.lax.scan(chunk, state, items)  # outputs [n, H, c, b]
        return outputs.swapaxes(1, 2).reshape(number * size, *outputs.shape[1::2])[:length], state


def _in_chunks(leaf: Float[Array, "T H *x"], number: int, size: int) -> Float[Array, "n H c *x"]:
    """Rows in chunks; rows of zeros at the end of the last one change nothing."""
    padded = jnp.pad(leaf, [(0, number * size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))
    return padded.reshape(number, size, *leaf.shape[1:]).swapaxes(1, 2)


class GatedDeltaNet(nnx.Module):
    """out_proj(norm(delta rule(silu(convolution(in_proj_qkv h)))) * silu(in_proj_z h)).

    `A_log` and the norm are float32 in every checkpoint.
    """

    def __init__(
        self, width: int, key_heads: int, value_heads: int, key_width: int, value_width: int, kernel: int, eps: float,
        rngs: nnx.Rngs, dtype: str = "float32",
    ):  # fmt: skip
        self.key_heads, self.value_heads = key_heads, value_heads
        self.key_width, self.value_width, self.kernel = key_width, value_width, kernel
        inner = value_heads * value_width
        channels = 2 * key_heads * key_width + inner
        self.in_proj_qkv = linear(width, channels, rngs, dtype, bias=False)
        self.in_proj_z = linear(width, inner, rngs, dtype, bias=False)
        self.in_proj_b = linear(width, value_heads, rngs, dtype, bias=False)
        self.in_proj_a = linear(width, value_heads, rngs, dtype, bias=False)
        self.conv1d = normal(rngs, (kernel, channels), dtype)
        self.A_log = nnx.Param(jnp.zeros(value_heads))
        self.dt_bias = nnx.Param(jnp.zeros(value_heads, dtype))
        self.norm = RMSNorm(value_width, eps)
        self.out_proj = linear(inner, width, rngs, dtype, bias=False)

    def __call__(
        self, h: Float[Array, "T D"], valid: Bool[Array, "T"], past: DeltaState | None = None
    ) -> tuple[Float[Array, "T D"], DeltaState]:
        """The layer's output, and the state after the last real row.

        Args:
            h: normalized states.
            valid: True for real rows; padding comes before the first of them, without `past`, or after the last.
            past: state after earlier rows; None for the start of a sequence.
        """
        rows, conv = self.inputs(h, valid, past)
        if past is None:
            state = jnp.zeros((self.value_heads, self.key_width, self.value_width), jnp.float32)
        else:
            state = past.recurrent
        if len(h) == 1:
            output, state = step(jax.tree.map(lambda leaf: leaf[0], rows), state)
            output = output[None]
        else:
            output, state = chunked(rows, state)
        return self.output(h, output), DeltaState(conv, state)

    def inputs(
        self, h: Float[Array, "T D"], valid: Bool[Array, "T"], past: DeltaState | None
    ) -> tuple[DeltaRows, Float[Array, "w-1 C"]]:
        """Inputs of the delta rule, and the convolution's last inputs."""
        with jax.named_scope("delta_projections"):
            u = jnp.where(valid[:, None], self.in_proj_qkv(h), 0)  # [T, C]
            mixed, conv = self._convolve(u, valid, past)
            sizes = (self.key_heads * self.key_width,) * 2
            query, key, value = jnp.split(mixed, [sizes[0], sum(sizes)], axis=-1)
            group = self.value_heads // self.key_heads
            query, key = (
                jnp.repeat(_unit(split_heads(leaf, self.key_heads)), group, axis=1) for leaf in (query, key)
            )  # fmt: skip
            beta = jax.nn.sigmoid(self.in_proj_b(h).astype(jnp.float32))
            bias = along_last(self.dt_bias[...].astype(jnp.float32), 2)
            rate = along_last(jnp.exp(self.A_log[...].astype(jnp.float32)), 2)
            g = -rate * jax.nn.softplus(self.in_proj_a(h).astype(jnp.float32) + bias)
        g, beta = (jnp.where(valid[:, None], leaf, 0) for leaf in (g, beta))
        value = split_heads(value, self.value_heads).astype(jnp.float32)
        return DeltaRows(query * self.key_width**-0.5, key, value, g, beta), conv

    def _convolve(
        self, u: Float[Array, "T C"], valid: Bool[Array, "T"], past: DeltaState | None
    ) -> tuple[Float[Array, "T C"], Float[Array, "w-1 C"]]:
        """Silu of the causal depthwise convolution, and the last inputs up to the last real row."""
        length, before = len(u), self.kernel - 1
        earlier = jnp.zeros((before, u.shape[1]), u.dtype) if past is None else past.conv.astype(u.dtype)
        rows = jnp.concatenate([earlier, u])
        weights = self.conv1d[...].astype(jnp.float32)
        taps = (rows[j : j + length].astype(jnp.float32) * weights[j][None] for j in range(self.kernel))
        end = jnp.max(jnp.where(valid, jnp.arange(length) + 1, 0), initial=0)  # one past the last real row
        return jax.nn.silu(sum(taps)).astype(u.dtype), jax.lax.dynamic_slice_in_dim(rows, end, before)

    def output(self, h: Float[Array, "T D"], core: Float[Array, "T H b"]) -> Float[Array, "T D"]:
        """The gated norm of the delta rule's outputs, projected."""
        gate = split_heads(self.in_proj_z(h), self.value_heads).astype(jnp.float32)
        return self.out_proj(join_heads((self.norm(core) * jax.nn.silu(gate)).astype(h.dtype)))


def _unit(x: Float[Array, "T G a"]) -> Float[Array, "T G a"]:
    """Vectors divided by the root of their sum of squares plus `L2_EPS`, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=-1, keepdims=True) + L2_EPS)
