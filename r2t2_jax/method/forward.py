"""Forward passes over a batch: encoding, routing, generation, and losses along a path.

Samples are mapped one at a time, so that no answer depends on its batch, or `vmap_size` at a time on an accelerator.

Axis letters: B samples, P points of a path, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Answer, BeamModel, Features, Inputs, Params, Port, RoutedLoss, RoutedModel, condition
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.batching import map_in_chunks


@partial(jax.jit, static_argnames=("model", "vmap_size"))
def encode_batch(
    params: Params, inputs: Inputs, *, model: RoutedModel, vmap_size: int = 1
) -> tuple[Features, Float[Array, "B L E"]]:
    """Features of every sample and the router's own weights for it."""

    def encode_sample(inputs: Inputs) -> tuple[Features, Float[Array, "L E"]]:
        features = model.encode(params, inputs)
        return features, model.route(params, features)

    return map_in_chunks(encode_sample, inputs, vmap_size)


def condition_batch(port: Port, features: Features, answers: Answer) -> Features:
    """The features of a batch of samples whose answers are known, conditioned on them if the model can do so."""
    if not hasattr(port.model, "condition"):
        return features
    return _condition(port.params, features, answers, model=port.model)


def stored_features(port: Port, inputs: Inputs, answers: Answer) -> Features:
    """The features of references as a bank stores them, as shapes; runs no model."""
    features, _ = jax.eval_shape(partial(encode_batch, model=port.model), port.params, inputs)
    return jax.eval_shape(partial(condition_batch, port), features, jax.tree.map(jnp.asarray, answers))


@partial(jax.jit, static_argnames="model")
def _condition(params: Params, features: Features, answers: Answer, *, model: RoutedModel) -> Features:
    return jax.lax.map(lambda sample: condition(model, params, *sample), (features, answers))


def generate_batch(port: Port, features: Features, routing: Routing | None, vmap_size: int = 1) -> Int[Array, "B A"]:
    """Answers, decoded as the port says; `routing` has a leading axis B, or is `None` for the untouched model."""
    return generate_tokens(
        port.params,
        features,
        routing,
        model=port.model,
        max_new_tokens=port.max_new_tokens,
        vmap_size=vmap_size,
        beams=port.beams,
    )


def generate_answer(
    model: RoutedModel, params: Params, features: Features, routing: Routing | None, max_new_tokens: int, beams: int
) -> Int[Array, "A"]:
    """Answer tokens of one sample: greedy, or of a beam search if there are several beams."""
    if beams == 1:
        return model.generate(params, features, routing, max_new_tokens)
    assert isinstance(model, BeamModel)  # `with_decoding` checks it
    return model.generate_beams(params, features, routing, max_new_tokens, beams)


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "vmap_size", "beams"))
def generate_tokens(
    params: Params,
    features: Features,
    routing: Routing | None,
    *,
    model: RoutedModel,
    max_new_tokens: int,
    vmap_size: int = 1,
    beams: int = 1,
) -> Int[Array, "B A"]:
    """As `generate_batch`, with model and parameters instead of a port."""

    def generate_sample(sample: tuple[Features, Routing | None]) -> Int[Array, "A"]:
        features, routing = sample
        return generate_answer(model, params, features, routing, max_new_tokens, beams)

    return map_in_chunks(generate_sample, (features, routing), vmap_size)


def generate_at_path(
    port: Port, features: Features, path: Float[Array, "B P L E"], vmap_size: int = 1
) -> Int[Array, "B P A"]:
    """The answers under the weights at each point of a path, by the program of the final answer."""
    points = range(path.shape[1])
    return jnp.stack([generate_batch(port, features, Routing(path[:, point]), vmap_size) for point in points], axis=1)


@partial(jax.jit, static_argnames="model")
def losses_at_path(
    params: Params, features: Features, answers: Answer, path: Float[Array, "B P L E"], *, model: RoutedLoss
) -> Float[Array, "B P"]:
    """The loss of the sample's own answer under the weights at each point of a path."""

    def losses(sample: tuple[Features, Answer, Float[Array, "P L E"]]) -> Float[Array, "P"]:
        features, answer, path = sample
        features = condition(model, params, features, answer)
        return jax.lax.map(lambda weights: model.answer_loss(params, features, Routing(weights), answer), path)

    return jax.lax.map(losses, (features, answers, path))


def normalized_gate_input(port: Port, features: Features) -> Float[np.ndarray, "n H"]:
    """The vector that the gate reads for each sample, divided by its length.

    Args:
        port: a port whose model has `gate_input`.
        features: of n samples; every leaf has a leading axis n.
    """
    vectors = np.asarray(_gate_input(port.params, jax.tree.map(jnp.asarray, features), model=port.model))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames="model")
def _gate_input(params: Params, features: Features, *, model: Any) -> Float[Array, "n H"]:
    return jax.lax.map(partial(model.gate_input, params), features)
