"""A model's passes over a batch: what it sees and how it routes, and what it answers.

Samples go one by one, so that no answer depends on the batch it came in, or `abreast` at a time to fill an accelerator.

Axis letters: B samples, P points of a path, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Answer, Features, Inputs, Params, Port, Reroutable, RoutedModel
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.batching import map_samples


@partial(jax.jit, static_argnames=("model", "abreast"))
def encode_batch(
    params: Params, inputs: Inputs, *, model: RoutedModel, abreast: int = 1
) -> tuple[Features, Float[Array, "B L E"]]:
    """Features of every sample and the router's own weights for it."""

    def sample(one: Inputs) -> tuple[Features, Float[Array, "L E"]]:
        features = model.encode(params, one)
        return features, model.route(params, features)

    return map_samples(sample, inputs, abreast)


def generate_batch(port: Port, features: Features, routing: Routing | None, abreast: int = 1) -> Int[Array, "B A"]:
    """Greedy answers; `routing` has a leading axis B, or is `None` for the untouched model."""
    return generate_tokens(
        port.params, features, routing, model=port.model, max_new_tokens=port.max_new_tokens, abreast=abreast
    )


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "abreast"))
def generate_tokens(
    params: Params,
    features: Features,
    routing: Routing | None,
    *,
    model: RoutedModel,
    max_new_tokens: int,
    abreast: int = 1,
) -> Int[Array, "B A"]:
    """As `generate_batch`, for a port taken apart."""

    def sample(one: tuple[Features, Routing | None]) -> Int[Array, "A"]:
        features, routing = one
        return model.generate(params, features, routing, max_new_tokens)

    return map_samples(sample, (features, routing), abreast)


def generate_along(
    port: Port, features: Features, path: Float[Array, "B P L E"], abreast: int = 1
) -> Int[Array, "B P A"]:
    """The answers which the weights at each point of a path would give, by the program that gives the last answer."""
    points = range(path.shape[1])
    return jnp.stack([generate_batch(port, features, Routing(path[:, point]), abreast) for point in points], axis=1)


@partial(jax.jit, static_argnames="model")
def losses_along(
    params: Params, features: Features, answers: Answer, path: Float[Array, "B P L E"], *, model: Reroutable
) -> Float[Array, "B P"]:
    """How well the weights at each point of a path answer the sample itself; nothing re-routes by it."""

    def sample(one: tuple[Features, Answer, Float[Array, "P L E"]]) -> Float[Array, "P"]:
        features, answer, path = one
        return jax.lax.map(lambda weights: model.answer_loss(params, features, Routing(weights), answer), path)

    return jax.lax.map(sample, (features, answers, path))


Told = Literal["gate_input", "image_vector"]  # optional methods of `contract.RoutedModel`


def unit_vectors(port: Port, features: Features, told: Told) -> Float[np.ndarray, "n H"]:
    """What the model tells of each sample; every leaf of `features` has a leading axis n."""
    vectors = np.asarray(_tell(port.params, jax.tree.map(jnp.asarray, features), model=port.model, told=told))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("model", "told"))
def _tell(params: Params, features: Features, *, model: Any, told: Told) -> Float[Array, "n H"]:
    return jax.lax.map(partial(getattr(model, told), params), features)
