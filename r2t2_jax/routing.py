"""Routing weights: their structure, how they replace or shift a gate, and the spaces in which they are updated
(docs/design.md, section 3).

Axis letters: L routed layers, E experts, Z = L or 1 (tied) rows of coordinates, S classes of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from r2t2_jax.errors import R2T2Error

Mode = Literal["replace", "shift", "select", "steer"]
TOKEN_CLASSES = ("text", "image", "last", "answer")  # of `TokenSteering`: `last` is the last token of the prompt
SPACES = ("free", "simplex", "logit", "shift")
TINY = 1e-6  # floor of a weight before its logarithm: logit space can leave a vertex of the simplex again


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TokenSteering:
    """What is imposed on a gate at each token, by routed layer and class of tokens (`TOKEN_CLASSES`).

    Args:
        shift: added to the gate's logits; very negative for an expert that must not be chosen.
        scaled: added to the logits in units of the standard deviation of the token's logits.
        selected: experts that are chosen in any case; the gate chooses the others.
        weights: combine weights that replace those of the gate, zero for all but the k largest; NaN in rows in which
            the gate gives the weights.
    """

    shift: Float[Array, "*B L S E"]
    scaled: Float[Array, "*B L S E"]
    selected: Bool[Array, "*B L S E"]
    weights: Float[Array, "*B L S E"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Routing:
    """Routing of a model: `replace` replaces the gate's weights with `values`, `shift` adds `values` to its logits.

    `select` gives the ids of the chosen experts [L, k], whose weights are the gate's; models with few experts that are
    all mixed do not take it. `steer` treats the classes of tokens differently (`TokenSteering`); only the model that
    `SteerableModel.steerable` returns takes it. `support` are the experts outside which replaced weights are zero, for
    models that compute these only (`reads_support`); `None` for all.
    """

    values: Float[Array, "L E"] | Int[Array, "L k"]  # `TokenSteering` in the mode `steer`
    mode: Mode = field(default="replace", metadata={"static": True})
    support: Bool[Array, "L E"] | None = None


@dataclass(frozen=True)
class RoutingSpec:
    """Names and structure of a model's routing weights [L, E].

    Args:
        experts: E names.
        layers: number of routed layers L, or their names.
        groups: experts whose weights compete (a softmax each), as tuples of expert indices; default: one group of all.
        support: for each layer, the supported experts; default: all.

    Raises:
        R2T2Error: a name is missing or given twice, names are one text, or groups or support do not fit the experts.
    """

    experts: tuple[str, ...]
    layers: int | tuple[str, ...] = 1
    groups: tuple[tuple[int, ...], ...] = ()
    support: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        named: tuple[object, object] = (self.experts, self.layers)
        for names in named:
            if isinstance(names, str):
                raise R2T2Error(f"names are given as a tuple, one for each, not as the text {names!r}")
        object.__setattr__(self, "experts", tuple(self.experts))
        if not isinstance(self.layers, int):
            object.__setattr__(self, "layers", tuple(self.layers))
        for kind, names in (("expert", self.experts), ("layer", self.layer_names)):
            if not names or not all(isinstance(name, str) and name for name in names):
                raise R2T2Error(f"a model has at least one {kind}, and each has a name; not {names}")
            if len(set(names)) < len(names):
                repeated = next(name for name in names if names.count(name) > 1)
                raise R2T2Error(f"{kind} {repeated!r} is named twice; give each {kind} a name of its own")
        indices = tuple(range(len(self.experts)))
        if not self.groups:
            object.__setattr__(self, "groups", (indices,))
        if sorted(e for group in self.groups for e in group) != list(indices):
            raise R2T2Error(f"groups {self.groups} must name each of the {len(indices)} experts exactly once")
        if self.support and (len(self.support) != self.num_layers or not all(self.support)):
            raise R2T2Error(f"support names the experts of {len(self.support)} layers, the model has {self.num_layers}")

    @property
    def num_layers(self) -> int:
        return self.layers if isinstance(self.layers, int) else len(self.layers)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers' own names, or `layer 1` and so on."""
        return tuple(f"layer {i + 1}" for i in range(self.layers)) if isinstance(self.layers, int) else self.layers

    @property
    def num_experts(self) -> int:
        return len(self.experts)

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_layers, self.num_experts

    def support_mask(self) -> Bool[np.ndarray, "L E"]:
        """The entries of r that may be non-zero, for a sample without a support of its own."""
        if not self.support:
            return np.ones(self.shape, bool)
        return np.asarray([[e in row for e in range(self.num_experts)] for row in self.support])

    def one_hot_experts(self, experts: Sequence[str]) -> Float[np.ndarray, "L E"]:
        """Equal weight on the named experts in every layer; a group without a named expert stays uniform."""
        unknown = [name for name in experts if name not in self.experts]
        if unknown:
            raise R2T2Error(f"unknown experts {unknown}; this model has {list(self.experts)}")
        support = self.support_mask()
        named = support & np.array([name in experts for name in self.experts])
        weights = np.zeros(self.shape, np.float32)  # on the host: JAX would compile each operation
        for group in map(list, self.groups):
            inside = named[:, group]
            chosen = np.where(inside.any(axis=-1, keepdims=True), inside, support[:, group])
            weights[:, group] = chosen / np.maximum(chosen.sum(axis=-1, keepdims=True), 1)
        return weights


def by_group(spec: RoutingSpec, function: Callable[..., Array], *arrays: Array) -> Array:
    """The results of `function` on each group's columns [..., n], concatenated and in the order of the experts."""
    columns = [list(group) for group in spec.groups]
    parts = [function(*(array[..., group] for array in arrays)) for group in columns]
    order = jnp.argsort(jnp.asarray([e for group in columns for e in group]))
    return jnp.concatenate(parts, axis=-1)[..., order]


def _softmax(logits: Array, support: Array) -> Array:
    masked = jnp.where(support, logits, -jnp.inf)
    top = jnp.max(masked, axis=-1, keepdims=True)
    scores = jnp.where(support, jnp.exp(masked - jnp.where(jnp.isfinite(top), top, 0.0)), 0.0)
    total = scores.sum(axis=-1, keepdims=True)
    return scores / jnp.where(total > 0, total, 1.0)


def _project(values: Array, support: Array) -> Array:
    masked = jnp.where(support, values, -jnp.inf)
    ordered = -jnp.sort(-masked, axis=-1)
    rank = jnp.broadcast_to(jnp.arange(1, values.shape[-1] + 1, dtype=values.dtype), values.shape)
    excess = jnp.cumsum(jnp.where(jnp.isfinite(ordered), ordered, 0.0), axis=-1) - 1.0
    positive = jnp.isfinite(ordered) & (ordered * rank > excess)  # the largest entries, as many as stay positive
    count = jnp.maximum(positive.sum(axis=-1, keepdims=True), 1)
    threshold = jnp.take_along_axis(excess, count - 1, axis=-1) / count.astype(values.dtype)
    return jnp.where(support, jnp.maximum(values - threshold, 0.0), 0.0)


def group_softmax(
    spec: RoutingSpec, logits: Float[Array, "*Z E"], support: Bool[Array, "*Z E"]
) -> Float[Array, "*Z E"]:
    """Softmax over the supported experts of each group; zero elsewhere."""
    return by_group(spec, _softmax, logits, jnp.broadcast_to(support, logits.shape))


def project_simplex(
    spec: RoutingSpec, values: Float[Array, "*Z E"], support: Bool[Array, "*Z E"]
) -> Float[Array, "*Z E"]:
    """Nearest point (L2) with non-negative supported weights that sum to one in each group.

    The exact projection by sorting: Held, Wolfe & Crowder 1974; Duchi et al. 2008, figure 1.
    """
    return by_group(spec, _project, values, jnp.broadcast_to(support, values.shape))


def restrict(spec: RoutingSpec, weights: Float[Array, "*Z E"], support: Bool[Array, "*Z E"]) -> Float[Array, "*Z E"]:
    """Weights restricted to the support; each group keeps its sum.

    Weight outside the support is moved inside in proportion to the weights there, or evenly if they are zero. With full
    support this is the identity, also for gates that do not sum to one.
    """

    def move(values: Array, mask: Array) -> Array:
        inside = jnp.where(mask, values, 0.0)
        total, rest = values.sum(axis=-1, keepdims=True), inside.sum(axis=-1, keepdims=True)
        even = mask * total / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
        scaled = inside * (total / jnp.where(rest == 0, 1.0, rest))
        return jnp.where(mask.all(axis=-1, keepdims=True), values, jnp.where(rest == 0, even, scaled))

    return by_group(spec, move, weights, jnp.broadcast_to(support, weights.shape))


def uniform(spec: RoutingSpec, support: Bool[Array, "L E"]) -> Float[Array, "L E"]:
    """Equal weight on every supported expert of each group."""
    return group_softmax(spec, jnp.zeros(support.shape), support)


def leading_experts(
    spec: RoutingSpec, routing: Float[Array, "*B L E"], support: Bool[Array, "*B L E"], count: int
) -> Bool[Array, "*B L E"]:
    """The mask of the `count` supported experts per group with the largest weights."""

    def largest(weights: Array, mask: Array) -> Array:
        ranks = jnp.argsort(jnp.argsort(-jnp.where(mask, weights, -jnp.inf), axis=-1), axis=-1)
        return mask & (ranks < count)

    return by_group(spec, largest, routing, support)


@dataclass(frozen=True)
class UpdateSpace:
    """Coordinates z in which a search moves the routing weights.

    - `free`: z = r, without projection (the paper's literal step); may leave the simplex.
    - `simplex`: z = r, projected exactly after every step.
    - `logit`: r = softmax(z) in each group.
    - `shift`: z is added to the gate's logits; z = 0 is the base model.

    Args:
        kind: one of these.
        tied: share one row of coordinates among all layers; its start is the mean over layers.
        last_layers: number of last layers that move; the others keep the router's weights. C3PO (Li et al. 2025,
            arXiv 2504.07964) moves the last 5 of 16. `None` for all.
        core_experts: number of experts per group that may have weight in the layers that move, those with the largest
            router weights. C3PO moves 20 of 64. `None` for all.
    """

    kind: Literal["free", "simplex", "logit", "shift"] = "free"
    tied: bool = False
    last_layers: int | None = None
    core_experts: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in SPACES:
            raise R2T2Error(f"unknown update space {self.kind!r}; choose one of {', '.join(SPACES)}")
        for name in ("last_layers", "core_experts"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise R2T2Error(f"space.{name} {number}; it must be at least 1")
        if self.tied and self.last_layers is not None:
            raise R2T2Error("space.tied moves all layers together: it cannot have space.last_layers")

    def moving(self, layers: int) -> Bool[Array, "L"]:
        """The layers that move, as a mask."""
        return jnp.arange(layers) >= layers - (self.last_layers or layers)

    def core_support(
        self, spec: RoutingSpec, routing: Float[Array, "*B L E"], support: Bool[Array, "*B L E"]
    ) -> Bool[Array, "*B L E"]:
        """The support, of which only the core experts are left in the layers that move."""
        if self.core_experts is None:
            return support
        core = leading_experts(spec, routing, support, self.core_experts)
        return jnp.where(self.moving(support.shape[-2])[:, None], core, support)

    def start(
        self, spec: RoutingSpec, routing: Float[Array, "L E"], support: Bool[Array, "L E"]
    ) -> Float[Array, "Z E"]:
        """Coordinates of the router's own weights."""
        weights = restrict(spec, routing, support)
        if self.tied:
            weights = weights.mean(axis=0, keepdims=True)  # [1, E]
        if self.kind == "shift":
            return jnp.zeros_like(weights)
        if self.kind == "logit":
            return jnp.log(jnp.maximum(weights, TINY))
        return weights

    def retract(
        self, spec: RoutingSpec, coordinates: Float[Array, "Z E"], support: Bool[Array, "L E"]
    ) -> Float[Array, "Z E"]:
        """Coordinates after a step, brought back into the space: projected to the simplex, or zero off the support."""
        mask = support.any(axis=0, keepdims=True) if self.tied else support
        if self.kind == "simplex":
            return project_simplex(spec, coordinates, mask)
        return jnp.where(mask, coordinates, jnp.zeros_like(coordinates) if self.kind != "logit" else coordinates)

    def routing(self, spec: RoutingSpec, coordinates: Float[Array, "Z E"], support: Bool[Array, "L E"]) -> Routing:
        """The routing of these coordinates; a tied row is repeated for all layers."""
        values = jnp.broadcast_to(coordinates, support.shape)  # [L, E]
        if self.kind == "logit":
            return Routing(group_softmax(spec, values, support), "replace")
        if self.kind == "shift":
            return Routing(jnp.where(support, values, 0.0), "shift")
        if self.kind == "simplex":  # a tied row may reach outside one layer's support
            return Routing(restrict(spec, values, support), "replace")
        return Routing(jnp.where(support, values, 0.0), "replace")
