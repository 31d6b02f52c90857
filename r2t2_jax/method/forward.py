"""Forward passes over a batch: encoding, routing, generation, and losses along a path.

Samples are mapped one at a time, so that no answer depends on its batch, or `vmap_size` at a time on an accelerator.

Axis letters: B samples, P points of a path, L routed layers, E experts, A answer tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from r2t2_jax.contract import (
    Answer,
    BeamModel,
    Features,
    Inputs,
    LogprobModel,
    Params,
    Port,
    RoutedLoss,
    RoutedModel,
    condition,
)
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.batching import map_in_chunks

MIN_TEMPERATURE = 1e-4  # of sampling; below it the largest logit is drawn


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


@partial(jax.jit, static_argnames="model")
def sample_tokens(
    params: Params,
    features: Features,
    routing: Routing | None,
    tokens: Int[Array, "B A"],
    keys: Key[Array, "B"],
    temperatures: Float[Array, "B"],
    *,
    model: LogprobModel,
) -> Int[Array, "B A"]:
    """Answers drawn token by token at a temperature; every token runs the answer once more.

    Args:
        params: of the model.
        features: of the samples.
        routing: with a leading axis B; `None` for the untouched model.
        tokens: greedy answers, for their shape and for samples of temperature 0.
        keys: one per sample.
        temperatures: of each sample.
        model: returns the log-probabilities.
    """

    def draw_sample(sample: tuple[Any, ...]) -> Int[Array, "A"]:
        features, routing, tokens, key, temperature = sample

        def logprobs_of(tokens: Int[Array, "A"]) -> Float[Array, "a V"]:
            return model.token_logprobs(params, features, routing, model.as_answer(tokens))[0]

        def draw(tokens: Int[Array, "A"], place: Int[Array, ""]) -> tuple[Int[Array, "A"], None]:
            logits = logprobs_of(tokens)[place] / jnp.maximum(temperature, MIN_TEMPERATURE)
            drawn = jax.random.categorical(jax.random.fold_in(key, place), logits).astype(tokens.dtype)
            return tokens.at[place].set(jnp.where(temperature > 0, drawn, tokens[place])), None

        length = min(len(tokens), jax.eval_shape(logprobs_of, tokens).shape[0])
        return jax.lax.scan(draw, tokens, jnp.arange(length))[0]

    return jax.lax.map(draw_sample, (features, routing, tokens, keys, temperatures))


@partial(jax.jit, static_argnames=("model", "top"))
def logprobs_of_tokens(
    params: Params,
    features: Features,
    routing: Routing | None,
    tokens: Int[Array, "B A"],
    *,
    model: LogprobModel,
    top: int,
) -> tuple[Float[Array, "B a"], Int[Array, "B a top"], Float[Array, "B a top"]]:
    """The log-probability of each token of an answer, and the likeliest tokens there with theirs.

    `a` is the number of places that the model returns, at most A; `top` at most the size of the vocabulary.
    """

    def score_sample(sample: tuple[Any, ...]) -> tuple[Array, Array, Array]:
        features, routing, tokens = sample
        logprobs, _ = model.token_logprobs(params, features, routing, model.as_answer(tokens))  # [a V]
        values, ids = jax.lax.top_k(logprobs, min(top, logprobs.shape[-1]))
        chosen = jnp.take_along_axis(logprobs, tokens[: len(logprobs), None], axis=-1)[:, 0]
        return chosen, ids, values

    return jax.lax.map(score_sample, (features, routing, tokens))


def generate_at_path(
    port: Port, features: Features, path: Float[Array, "B P L E"], vmap_size: int = 1
) -> Int[np.ndarray, "B P A"]:
    """The answers under the weights at each point of a path, by the program of the final answer."""
    points = range(path.shape[1])
    answers = [generate_batch(port, features, Routing(path[:, point]), vmap_size) for point in points]
    return np.stack(list(map(np.asarray, answers)), axis=1)  # on the host: JAX would compile it


@partial(jax.jit, static_argnames=("model", "vmap_size"))
def losses_at_path(
    params: Params,
    features: Features,
    answers: Answer,
    path: Float[Array, "B P L E"],
    *,
    model: RoutedLoss,
    vmap_size: int = 1,
) -> Float[Array, "B P"]:
    """The loss of the sample's own answer under the weights at each point of a path."""

    def losses(sample: tuple[Features, Answer, Float[Array, "P L E"]]) -> Float[Array, "P"]:
        features, answer, path = sample
        features = condition(model, params, features, answer)
        return jax.lax.map(lambda weights: model.answer_loss(params, features, Routing(weights), answer), path)

    return map_in_chunks(losses, (features, answers, path), vmap_size)


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
