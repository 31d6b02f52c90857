"""Routing as an input of a decoder layer: the gate, its experts, and the four modes in which routing is imposed.

Axis letters: T tokens that are run, D width, L routed layers, E experts, k chosen experts, C core experts, S classes of
tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.linear import linear
from ports.common.layers.moe import ExpertChoice, Experts, select, weights_at
from r2t2_jax.routing import TokenSteering


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RoutedRows:
    """Routing imposed on some rows of some layers.

    Args:
        values: for the modes `replace` and `shift` [L, E]; expert ids for `select` [L, k], or [L, span, k] with -1
            where the router chooses; `TokenSteering` for `steer`.
        rows: which of the `span` rows from `start` on the routing is imposed on; `None` for all of them. For `steer`
            the class of each row, -1 for a row on which nothing is imposed.
        mode: `replace` gives the combine weights, `shift` is added to the gate's logits, `select` gives the experts,
            `steer` does all three by class of tokens.
        layers: indices of the routed layers, ascending.
        span: number of rows that `rows` describes.
        start: the first of them.
        core: for `replace`, the ids of the experts outside which `values` are zero: only these are computed. `None` for
            all experts.
    """

    values: Float[Array, "L E"] | Int[Array, "L *span k"] | TokenSteering
    rows: Bool[Array, "span"] | Int[Array, "span"] | None
    mode: str = field(metadata={"static": True})
    layers: tuple[int, ...] = field(metadata={"static": True})
    span: int = field(metadata={"static": True})
    start: int = field(default=0, metadata={"static": True})
    core: Int[Array, "L C"] | None = None

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
        self,
        h: Float[Array, "T D"],
        values: Array | TokenSteering | None,
        routed: RoutedRows | None,
        core: Int[Array, "C"] | None = None,
    ) -> tuple[Float[Array, "T D"], ExpertChoice, Float[Array, "T E"]]:
        """The experts' mixture, the gate's choice, and the combine weights in effect.

        Args:
            h: normalized states.
            values: of this layer; `None` if the layer routes itself.
            routed: rows and mode of the routing.
            core: the core experts of this layer; `None` for all experts.
        """
        with jax.named_scope("gate"):
            logits = self.gate(h)  # [T, E]
        if values is None or routed is None:
            choice = select(logits, self.top_k, self.normalize)
            return self.experts.chosen(h, choice), choice, choice.dense()
        if isinstance(values, TokenSteering):
            choice = self._steered(logits, values, routed)
            return self.experts.chosen(h, choice), choice, choice.dense()
        if routed.mode == "replace":
            return self._replaced(h, logits, values, routed, core)
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

    def _steered(self, logits: Float[Array, "T E"], steering: TokenSteering, routed: RoutedRows) -> ExpertChoice:
        """The choice of each row under the steering of its class, with the gate's own logits."""
        assert routed.rows is not None
        classes = routed.spread(routed.rows, len(logits), fill=-1)  # [T]
        imposed = (classes >= 0)[:, None]
        by_row = jax.tree.map(lambda leaf: leaf[jnp.maximum(classes, 0)], steering)  # [T, E]
        scores = logits.astype(jnp.float32)
        scores = scores + by_row.shift + by_row.scaled * scores.std(axis=-1, keepdims=True)
        _, ids = jax.lax.top_k(jnp.where(by_row.selected, jnp.inf, scores), self.top_k)
        weights = weights_at(scores, ids, self.normalize).weights
        replaced = ~jnp.isnan(by_row.weights[:, :1])
        largest, heaviest = jax.lax.top_k(jnp.where(replaced, by_row.weights, 0.0), self.top_k)
        ids, weights = jnp.where(replaced, heaviest, ids), jnp.where(replaced, largest, weights)
        order = jnp.argsort(-weights, axis=-1, stable=True)
        ids, weights = (jnp.take_along_axis(leaf, order, axis=-1) for leaf in (ids, weights))
        own = select(logits, self.top_k, self.normalize)
        weights = jnp.where(imposed, weights.astype(own.weights.dtype), own.weights)
        return ExpertChoice(logits, jnp.where(imposed, ids, own.ids), weights)

    def _replaced(
        self, h: Array, logits: Array, values: Array, routed: RoutedRows, core: Int[Array, "C"] | None
    ) -> tuple[Float[Array, "T D"], ExpertChoice, Float[Array, "T E"]]:
        """Given combine weights in the re-routed rows of the span; rows outside of it run their chosen experts."""
        choice, span = select(logits, self.top_k, self.normalize), routed.span
        before, after = slice(routed.start), slice(routed.start + span, None)
        inside = slice(routed.start, routed.start + span)
        weights, own = jnp.broadcast_to(values[None], (span, values.shape[-1])), choice.dense()
        if routed.rows is not None:
            weights = jnp.where(routed.rows[:, None], weights, own[inside])
        if core is None:
            imposed = self.experts.all(h[inside], weights)
        else:
            imposed = self.experts.core(h[inside], *self._core_choice(choice, values, routed, core))
        kept = ExpertChoice(*(jnp.concatenate([leaf[before], leaf[after]]) for leaf in choice))
        rest = jnp.concatenate([h[before], h[after]])
        chosen = self.experts.chosen(rest, kept) if len(rest) else rest
        mixed = jnp.concatenate([chosen[before], imposed, chosen[routed.start :]])
        return mixed, choice, jnp.concatenate([own[before], weights, own[after]])

    def _core_choice(
        self, choice: ExpertChoice, values: Array, routed: RoutedRows, core: Int[Array, "C"]
    ) -> tuple[Int[Array, "span C"], Float[Array, "span C"]]:
        """The core experts and their given weights; in rows that the router keeps its own choice, padded to C."""
        shape, inside = (routed.span, len(core)), slice(routed.start, routed.start + routed.span)
        ids, weights = jnp.broadcast_to(core[None], shape), jnp.broadcast_to(values[core][None], shape)
        if routed.rows is None:
            return ids, weights
        free = ((0, 0), (0, len(core) - self.top_k))  # expert 0 with weight zero
        own_ids, own_weights = (jnp.pad(leaf[inside], free) for leaf in (choice.ids, choice.weights))
        rows = routed.rows[:, None]
        return jnp.where(rows, ids, own_ids), jnp.where(rows, weights, own_weights)
