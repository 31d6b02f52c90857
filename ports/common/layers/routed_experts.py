"""Routing as an input of a decoder layer: the gate, its experts, and the three modes in which routing is imposed.

Axis letters: T tokens that are run, D width, L routed layers, E experts, k chosen experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.linear import linear
from ports.common.layers.moe import ExpertChoice, Experts, select, weights_at


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RoutedRows:
    """Routing imposed on some rows of some layers.

    Args:
        values: for the modes `replace` and `shift` [L, E]; expert ids for `select` [L, k], or [L, span, k] with -1
            where the router chooses.
        rows: which of the `span` rows from `start` on the routing is imposed on; `None` for all of them.
        mode: `replace` gives the combine weights, `shift` is added to the gate's logits, `select` gives the experts.
        layers: indices of the routed layers, ascending.
        span: number of rows that `rows` describes.
        start: the first of them.
    """

    values: Float[Array, "L E"] | Int[Array, "L *span k"]
    rows: Bool[Array, "span"] | None
    mode: str = field(metadata={"static": True})
    layers: tuple[int, ...] = field(metadata={"static": True})
    span: int = field(metadata={"static": True})
    start: int = field(default=0, metadata={"static": True})

    def spread(self, leaf: Array, length: int, fill: int = 0) -> Array:
        """A leaf over `span` rows as one over `length` rows."""
        widths = [(self.start, length - self.start - self.span)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=fill)


class RoutedExperts(nnx.Module):
    """The part of a decoder layer that routing acts on: its gate and its experts."""

    def __init__(self, width: int, hidden: int, experts: int, top_k: int, normalize: bool, rngs: nnx.Rngs, dtype: str):
        self.top_k, self.normalize = top_k, normalize
        self.gate = linear(width, experts, rngs, dtype, bias=False)
        self.experts = Experts(experts, width, hidden, rngs, dtype)

    def mix(
        self, h: Float[Array, "T D"], values: Array | None, routed: RoutedRows | None
    ) -> tuple[Float[Array, "T D"], ExpertChoice, Float[Array, "T E"]]:
        """The experts' mixture, the gate's choice, and the combine weights in effect.

        Args:
            h: normalized states.
            values: of this layer; `None` if the layer routes itself.
            routed: rows and mode of the routing.
        """
        with jax.named_scope("gate"):
            logits = self.gate(h)  # [T, E]
        if values is None or routed is None:
            choice = select(logits, self.top_k, self.normalize)
            return self.experts.chosen(h, choice), choice, choice.dense()
        if routed.mode == "replace":
            return self._replaced(h, logits, values, routed)
        rows = jnp.ones(routed.span, bool) if routed.rows is None else routed.rows
        rows = routed.spread(rows, len(h))[:, None]  # [T, 1]
        if routed.mode == "shift":
            shifted = logits + jnp.where(rows, values.astype(logits.dtype)[None], 0)
            choice = select(shifted, self.top_k, self.normalize)
        else:
            own = select(logits, self.top_k, self.normalize).ids
            ids = jnp.broadcast_to(values if values.ndim == 2 else values[None], (routed.span, self.top_k))
            ids = routed.spread(ids, len(h), fill=-1)
            choice = weights_at(logits, jnp.where(rows & (ids >= 0), ids, own), self.normalize)
        return self.experts.chosen(h, choice), choice, choice.dense()

    def _replaced(
        self, h: Array, logits: Array, values: Array, routed: RoutedRows
    ) -> tuple[Float[Array, "T D"], ExpertChoice, Float[Array, "T E"]]:
        """Given combine weights in the re-routed rows; rows that the router keeps run the chosen experts only."""
        choice, span = select(logits, self.top_k, self.normalize), routed.span
        before, after = slice(routed.start), slice(routed.start + span, None)
        inside = slice(routed.start, routed.start + span)
        weights, own = jnp.broadcast_to(values[None], (span, values.shape[-1])), choice.dense()
        imposed = self.experts.all(h[inside], weights)
        if routed.rows is None:  # no row of the span is the router's
            kept = ExpertChoice(*(jnp.concatenate([leaf[before], leaf[after]]) for leaf in choice))
            rest = jnp.concatenate([h[before], h[after]])
            chosen = self.experts.chosen(rest, kept) if len(rest) else rest
            parts = (chosen[before], imposed, chosen[routed.start :])
        else:
            rows, chosen = routed.rows[:, None], self.experts.chosen(h, choice)
            weights = jnp.where(rows, weights, own[inside])
            parts = (chosen[before], jnp.where(rows, imposed, chosen[inside]), chosen[after])
        return jnp.concatenate(parts), choice, jnp.concatenate([own[before], weights, own[after]])
