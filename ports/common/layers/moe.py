"""Mixture-of-experts layers whose routing is an input: gate, choice of experts, and their outputs.

Choosing and mixing are separate functions: `select` and `weights_at` return expert ids and combine weights; `grouped`,
`mixture` and `dense` compute the experts for ids and weights from anywhere. Tokens are rows of a matrix. Under
`jax.vmap` the batch axes of `grouped` and `mixture` become more rows of the same matrix, so an expert's weights are
read once for all samples, and no product has a batch of weights. Experts are frozen: neither has a gradient with
respect to them.

Axis letters: T rows, k chosen experts a row, C core experts, E experts, D width, F width of an expert, n mapped
samples.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from ports.common.layers.linear import normal


class ExpertChoice(NamedTuple):
    """The experts of each row: the gate's logits, the ids, largest weight first, and their combine weights."""

    logits: Float[Array, "*T E"]
    ids: Int[Array, "*T k"]
    weights: Float[Array, "*T k"]

    def dense(self) -> Float[Array, "*T E"]:
        """The combine weights of all experts, zero where an expert is not chosen."""
        hot = self.ids[..., None] == jnp.arange(self.logits.shape[-1]).reshape((1,) * self.ids.ndim + (-1,))
        return jnp.where(hot, self.weights.astype(jnp.float32)[..., None], 0.0).sum(axis=-2)


def select(logits: Float[Array, "T E"], k: int, normalize: bool) -> ExpertChoice:
    """The k most probable experts of each row; with `normalize` their weights sum to one.

    The softmax runs over all experts in float32. A gradient holds the chosen set fixed.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    _, ids = jax.lax.top_k(jax.lax.stop_gradient(probabilities), k)
    return weights_at(logits, ids, normalize)


def weights_at(logits: Float[Array, "T E"], ids: Int[Array, "T k"], normalize: bool) -> ExpertChoice:
    """The combine weights that the gate gives to these experts, whichever it would choose itself."""
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    weights = jnp.take_along_axis(probabilities, ids, axis=-1)
    if normalize:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    return ExpertChoice(logits, ids, weights.astype(logits.dtype))


class Experts(nnx.Module):
    """E experts down(silu(gate(x)) * up(x)) without biases; `gate_up` holds the gate's columns first."""

    def __init__(self, experts: int, width: int, hidden: int, rngs: nnx.Rngs, dtype: str = "float32"):
        self.gate_up = normal(rngs, (experts, width, 2 * hidden), dtype)
        self.down = normal(rngs, (experts, hidden, width), dtype)

    def chosen(self, x: Float[Array, "T D"], choice: ExpertChoice) -> Float[Array, "T D"]:
        """sum_k w_k f_k(x) over the chosen experts, grouped by expert."""
        with jax.named_scope("grouped_experts"):
            outputs = grouped(x, choice.ids, self.gate_up[...], self.down[...])  # [T, k, D]
            return jnp.einsum("tk,tkd->td", choice.weights.astype(outputs.dtype), outputs)

    def core(self, x: Float[Array, "T D"], ids: Int[Array, "T C"], weights: Float[Array, "T C"]) -> Float[Array, "T D"]:
        """sum_c w_c f_c(x) over each row's core experts, for any weights; nothing is clipped or normalized."""
        with jax.named_scope("core_experts"):
            return mixture(x, ids, weights.astype(x.dtype), self.gate_up[...], self.down[...])

    def all(self, x: Float[Array, "T D"], weights: Float[Array, "T E"]) -> Float[Array, "T D"]:
        """sum_e w_e f_e(x) over all experts, for any weights; nothing is clipped or normalized."""
        with jax.named_scope("dense_experts"):
            return dense(x, weights, self.gate_up[...], self.down[...])


def dense(
    x: Float[Array, "T D"], weights: Float[Array, "T E"], gate_up: Float[Array, "E D 2F"], down: Float[Array, "E F D"]
) -> Float[Array, "T D"]:
    """sum_e w_e f_e(x) as two products over all experts.

    The weights scale the experts' hidden states, so that the gradient with respect to them needs no [T, E, D].
    """
    hidden = _activate(jnp.einsum("td,edf->tef", x, gate_up))  # [T, E, F]
    return jnp.einsum("tef,efd->td", hidden * weights.astype(hidden.dtype)[..., None], down)


def _activate(gate_up: Float[Array, "*T 2F"]) -> Float[Array, "*T F"]:
    gate, up = jnp.split(gate_up, 2, axis=-1)
    return jax.nn.silu(gate) * up


@jax.custom_vjp
def grouped(
    x: Float[Array, "T D"], ids: Int[Array, "T k"], gate_up: Float[Array, "E D 2F"], down: Float[Array, "E F D"]
) -> Float[Array, "T k D"]:
    """f_e(x) of each row's k experts, by rows that are sorted by expert.

    Differentiable with respect to `x` only; `jax.vmap` over rows and ids adds rows.
    """
    return _forward(x, ids, gate_up, down)[0]


def _forward_vjp(x: Array, ids: Array, gate_up: Array, down: Array) -> tuple[Array, tuple[Array, ...]]:
    outputs, hidden = _forward(x, ids, gate_up, down)
    return outputs, (hidden, ids, gate_up, down)


def _backward_vjp(kept: tuple[Array, ...], gradient: Array) -> tuple[Array, None, None, None]:
    hidden, ids, gate_up, down = kept
    return _backward(gradient, hidden, ids, gate_up, down), None, None, None


grouped.defvjp(_forward_vjp, _backward_vjp)


@jax.custom_vjp
def mixture(
    x: Float[Array, "T D"],
    ids: Int[Array, "T C"],
    weights: Float[Array, "T C"],
    gate_up: Float[Array, "E D 2F"],
    down: Float[Array, "E F D"],
) -> Float[Array, "T D"]:
    """sum_c w_c f_c(x) of each row's experts, by rows that are sorted by expert; the same ids may stand in every row.

    Differentiable with respect to `x` and `weights`; `jax.vmap` over the rows adds rows. The weights scale the experts'
    hidden states, as in `dense`, so that no [T, C, D] is kept for the backward pass.
    """
    return _mix(x, ids, weights, gate_up, down)[0]


def _mix_vjp(x: Array, ids: Array, weights: Array, gate_up: Array, down: Array) -> tuple[Array, tuple[Array, ...]]:
    mixed, hidden = _mix(x, ids, weights, gate_up, down)
    return mixed, (hidden, ids, weights, gate_up, down)


def _mix_backward_vjp(kept: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    by_x, by_weights = _mix_backward(gradient, *kept)
    return by_x, None, by_weights, None, None


mixture.defvjp(_mix_vjp, _mix_backward_vjp)


def _as_rows(function: Any) -> Any:
    """`function(*rows, gate_up, down)`; mapped axes of the rows become rows, and weights are never mapped."""
    batched = custom_vmap(function)

    @batched.def_vmap
    def rule(n: int, mapped: list[bool], *arguments: Array) -> tuple[Any, Any]:
        *rows, gate_up, down = arguments
        if mapped[-1] or mapped[-2]:
            raise ValueError("experts with a batch of weights: map over samples, not over parameters")
        rows = [
            leaf if is_mapped else jnp.broadcast_to(leaf[None], (n, *leaf.shape))
            for leaf, is_mapped in zip(rows, mapped[:-2], strict=True)
        ]
        flat = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in rows]
        out = jax.tree.map(lambda leaf: leaf.reshape(n, -1, *leaf.shape[1:]), batched(*flat, gate_up, down))
        return out, jax.tree.map(lambda _: True, out)

    return batched


class _Sorted(NamedTuple):
    """Rows sorted by expert: the original entry at each place, the place of each entry, rows per expert."""

    order: Int[Array, "T*k"]
    place: Int[Array, "T*k"]
    sizes: Int[Array, "E"]


def _sort(ids: Int[Array, "T k"], experts: int) -> _Sorted:
    """A stable counting sort: there are few experts."""
    flat = ids.reshape(-1)
    counts = jnp.cumsum(flat[:, None] == jnp.arange(experts)[None], axis=0)  # [T * k, E]
    sizes = counts[-1]
    rank = jnp.take_along_axis(counts, flat[:, None], axis=1)[:, 0] - 1
    place = (jnp.cumsum(sizes) - sizes)[flat] + rank
    return _Sorted(jnp.zeros_like(place).at[place].set(jnp.arange(flat.size)), place, sizes)


@_as_rows
def _forward(x: Array, ids: Array, gate_up: Array, down: Array) -> tuple[Array, Array]:
    """Outputs [T, k, D], and the hidden states before the activation [T, k, 2F]."""
    by_expert, k = _sort(ids, len(gate_up)), ids.shape[1]
    hidden = grouped_matmul(x[by_expert.order // k], gate_up, by_expert.sizes)  # [T * k, 2F]
    outputs = grouped_matmul(_activate(hidden), down, by_expert.sizes)
    outputs, hidden = (leaf[by_expert.place].reshape(*ids.shape, -1) for leaf in (outputs, hidden))
    return outputs, hidden


@_as_rows
def _backward(gradient: Array, hidden: Array, ids: Array, gate_up: Array, down: Array) -> Array:
    """The gradient with respect to x [T, D] from that of the outputs [T, k, D]."""
    by_expert, k = _sort(ids, len(gate_up)), ids.shape[1]
    gradient, hidden = (leaf.reshape(ids.size, -1)[by_expert.order] for leaf in (gradient, hidden))
    inner = grouped_matmul(gradient, jnp.swapaxes(down, 1, 2), by_expert.sizes)
    _, backward = jax.vjp(_activate, hidden)
    rows = grouped_matmul(backward(inner)[0], jnp.swapaxes(gate_up, 1, 2), by_expert.sizes)
    return rows[by_expert.place].reshape(-1, k, rows.shape[-1]).sum(axis=1)


@_as_rows
def _mix(x: Array, ids: Array, weights: Array, gate_up: Array, down: Array) -> tuple[Array, Array]:
    """Mixed outputs [T, D], and the hidden states before the activation [T, C, 2F]."""
    by_expert, c = _sort(ids, len(gate_up)), ids.shape[1]
    hidden = grouped_matmul(x[by_expert.order // c], gate_up, by_expert.sizes)  # [T * C, 2F]
    scaled = _activate(hidden) * weights.reshape(-1, 1)[by_expert.order]
    outputs = grouped_matmul(scaled, down, by_expert.sizes)
    outputs, hidden = (leaf[by_expert.place].reshape(*ids.shape, -1) for leaf in (outputs, hidden))
    return outputs.sum(axis=1), hidden


@_as_rows
def _mix_backward(
    gradient: Array, hidden: Array, ids: Array, weights: Array, gate_up: Array, down: Array
) -> tuple[Array, Array]:
    """The gradients with respect to x [T, D] and the weights [T, C] from that of the mixed outputs [T, D]."""
    by_expert, c = _sort(ids, len(gate_up)), ids.shape[1]
    hidden = hidden.reshape(ids.size, -1)[by_expert.order]
    inner = grouped_matmul(gradient[by_expert.order // c], jnp.swapaxes(down, 1, 2), by_expert.sizes)  # [T * C, F]
    activated, backward = jax.vjp(_activate, hidden)
    by_weights = (inner * activated).sum(axis=-1)[by_expert.place].reshape(ids.shape)
    scaled = inner * weights.reshape(-1, 1)[by_expert.order]
    rows = grouped_matmul(backward(scaled)[0], jnp.swapaxes(gate_up, 1, 2), by_expert.sizes)
    return rows[by_expert.place].reshape(*ids.shape, -1).sum(axis=1), by_weights


def grouped_matmul(
    rows: Float[Array, "M K"], weights: Float[Array, "E K N"], sizes: Int[Array, "E"]
) -> Float[Array, "M N"]:
    """The product of each group of consecutive rows with its own matrix, by the kernel that `kernel()` names."""
    if kernel() == "tokamax":
        import tokamax

        return tokamax.ragged_dot(rows, weights, sizes)
    return jax.lax.ragged_dot(rows, weights, sizes)


@cache
def kernel() -> str:
    """The implementation of `grouped_matmul` here: `tokamax` on NVIDIA with the extra `kernels`, else `ragged_dot`."""
    if jax.default_backend() not in ("gpu", "cuda"):
        return "ragged_dot"
    try:
        import tokamax  # noqa: F401
    except ImportError:
        return "ragged_dot"
    return "tokamax"
