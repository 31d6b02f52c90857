"""Answers under a steering file: the method `steer` of `r2t2 answer --steer` and `r2t2 eval --steer`.

Models that route token by token are steered at every token that a rule names, in all layers with a gate. Models that
route whole samples are steered by a shift of their gates' logits; if a rule gives weights, by their routing weights r.

Axis letters: B samples, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Features, Inputs, Params, Port, Sample, SteerableModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import generate_batch, generate_tokens
from r2t2_jax.rivals.base import BaselineBatch, baseline_result
from r2t2_jax.routing import Routing, RoutingSpec, by_group
from r2t2_jax.steering.files import Steering
from r2t2_jax.steering.tables import MASKED, SteeringTables, bind

STEER = "steer"


@dataclass(frozen=True)
class Steer:
    """The model under a steering file, at the cost of one evaluation; a `Baseline` without references."""

    steering: Steering
    name: str = field(default=STEER)

    selector, kernel, atlas, reads_references = None, None, None, False

    def check_port(self, port: Port) -> None:
        """Raise `R2T2Error` if the model cannot follow the rules."""
        bind(self.steering, port)

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`."""
        port, tables = batch.port, bind(self.steering, batch.port)
        if isinstance(port.model, SteerableModel):
            tokens, weights = _answer_by_token(port, port.model, tables, batch.samples)
        else:
            routing = sample_routing(port, tables, batch.samples, batch.queries.routing, batch.queries.support)
            tokens = generate_batch(port, batch.queries.features, routing)
            weights = effective_weights(port, batch.queries.features, routing)
        return baseline_result(batch, evaluations=1, weights=weights, tokens=tokens)


def steered_model(model: SteerableModel, tables: SteeringTables) -> tuple[SteerableModel, Routing]:
    """The model that takes the steering at every token, and the steering of its layers."""
    wide = model.steerable(tables.steered)
    positions = [model.gated_layers.index(name) for name in wide.spec.layer_names]
    return wide, Routing(tables.of_layers(positions), "steer")  # type: ignore[arg-type]


def _answer_by_token(
    port: Port, model: SteerableModel, tables: SteeringTables, samples: Sequence[Sample]
) -> tuple[Array, Float[Array, "B L E"]]:
    """Answers, and the weights in effect in the layers and at the tokens that the model re-routes."""
    wide, routing = steered_model(model, tables)
    features = _encode(port.params, port.processor.prepare(port.params, samples), model=wide)
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(samples), *leaf.shape)), routing)
    tokens = generate_tokens(port.params, features, each, model=wide, max_new_tokens=port.max_new_tokens)
    weights = _weights(port.params, features, each, model=wide)
    own = [wide.spec.layer_names.index(name) for name in model.spec.layer_names]
    return tokens, weights[:, jnp.asarray(own)]


def sample_routing(
    port: Port,
    tables: SteeringTables,
    samples: Sequence[Sample],
    router: Float[Array, "B L E"],
    support: Bool[Array, "B L E"],
) -> Routing:
    """The routing of samples whose experts are all mixed: a shift of the logits, or weights if a rule gives some.

    Args:
        port: the model.
        tables: of its layers.
        samples: for the messages.
        router: the router's own weights.
        support: experts that each sample has.

    Raises:
        R2T2Error: the rules leave a sample without an expert that it has.
    """
    spec, shape = port.model.spec, np.shape(router)
    scale = _spread(router, support)[..., None] * tables.scaled[:, 0]
    masked = np.broadcast_to(tables.masked[:, 0], shape)
    shift = jnp.asarray(np.where(masked, MASKED, tables.shift[:, 0] + scale), jnp.float32)  # [B, L, E]
    weighed, has = np.broadcast_to(tables.weights[:, 0], shape), np.asarray(support)
    named = ~np.isnan(weighed)
    for wrong, verb in (
        (_any(spec, has) & ~_any(spec, has & ~masked), "masks every expert"),
        (_any(spec, has) & named & ~_any(spec, has & (weighed > 0)), "gives no weight to any expert"),
    ):
        if wrong.any():
            sample, layer, _ = np.argwhere(wrong)[0].tolist()
            where = f"sample {samples[sample].id!r} has in {spec.layer_names[layer]}"
            raise R2T2Error(f"{port.name}: the steering {verb} that {where}")
    if not named.any():
        return Routing(shift, "shift")
    given = jnp.asarray(np.where(has, np.nan_to_num(weighed), 0.0), jnp.float32)
    values = jnp.where(jnp.asarray(named), given, steered_weights(spec, jnp.asarray(router), shift))
    return Routing(values, "replace", jnp.asarray(has) if getattr(port.model, "reads_support", False) else None)


def effective_weights(port: Port, features: Features, routing: Routing) -> Float[Array, "B L E"]:
    """The routing weights in effect under a routing of each sample."""
    return _weights(port.params, features, routing, model=port.model)


def steered_weights(
    spec: RoutingSpec, router: Float[Array, "*B L E"], shift: Float[Array, "*B L E"]
) -> Float[Array, "*B L E"]:
    """R proportional to r0 exp(shift) in each group, whose sum stays; r0 itself where nothing is shifted."""

    def move(weights: Array, shift: Array) -> Array:
        moved = weights * jnp.exp(shift)
        total, sums = weights.sum(axis=-1, keepdims=True), moved.sum(axis=-1, keepdims=True)
        return jnp.where((shift == 0).all(axis=-1, keepdims=True), weights, moved * total / jnp.maximum(sums, 1e-30))

    return by_group(spec, move, router, jnp.broadcast_to(shift, router.shape))


def _spread(router: Float[Array, "B L E"], support: Bool[Array, "B L E"]) -> Float[np.ndarray, "B L"]:
    """The standard deviation of log r0 over the experts that a sample has."""
    weights = np.asarray(router, np.float32)
    has = np.asarray(support) & (weights > 0)
    logits = np.log(np.where(has, weights, 1.0))
    count = np.maximum(has.sum(axis=-1), 1)
    mean = logits.sum(axis=-1) / count
    return np.sqrt((np.where(has, logits - mean[..., None], 0.0) ** 2).sum(axis=-1) / count)


def _any(spec: RoutingSpec, mask: Bool[np.ndarray, "B L E"]) -> Bool[np.ndarray, "B L E"]:
    """For each expert whether the mask has any expert of its group."""

    def any_of_group(part: Array) -> Array:
        return jnp.broadcast_to(part.any(-1, keepdims=True), part.shape)

    return np.asarray(by_group(spec, any_of_group, jnp.asarray(mask)))


@partial(jax.jit, static_argnames="model")
def _encode(params: Params, inputs: Inputs, *, model: Any) -> Features:
    return jax.lax.map(partial(model.encode, params), inputs)


@partial(jax.jit, static_argnames="model")
def _weights(params: Params, features: Features, routing: Routing, *, model: Any) -> Float[Array, "B L E"]:
    return jax.lax.map(lambda sample: model.route(params, *sample), (features, routing))
