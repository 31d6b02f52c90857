"""Trained controls of the loss atlas: a small network fitted on its table, and the gate trained on its references.

If either is as accurate as the atlas, retrieval adds nothing.

Axis letters: N references, B test samples, M embedding size, G atlas points, L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from r2t2_jax.contract import Answer, Features, Params, Port, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.pytrees import partition, select_params

HIDDEN = 128
MLP_STEPS, MLP_BATCH, MLP_RATE, MLP_DECAY = 400, 256, 3e-3, 1e-2
GATE_STEPS, GATE_BATCH, GATE_RATE = 400, 64, 3e-3

Layers = dict[str, Array]


@dataclass(frozen=True)
class Network:
    """A fitted network, and the largest loss that it can predict."""

    layers: Layers
    top: float


def fit_predictor(
    embeddings: Float[np.ndarray, "N M"], losses: Float[np.ndarray, "N G"], top: float = 1.0, seed: int = 0
) -> Network:
    """A network with one hidden layer that predicts the losses at the atlas's points from a question's embedding.

    It is fitted on every reference's row of the table: mean squared error, AdamW with a cosine schedule.

    Args:
        embeddings, losses: of the references.
        top: the largest loss there can be, in the units of the predictions.
        seed: of the initial weights and of the order of the references.
    """
    return Network(_fit(embeddings, np.asarray(losses, np.float32) / np.float32(top), jax.random.key(seed)), top)


def predict_losses(network: Network, queries: Float[np.ndarray, "B M"]) -> Float[np.ndarray, "B G"]:
    """Losses at the atlas's points, predicted from the embeddings of the test samples."""
    return np.asarray(_predict(network.layers, queries)) * network.top


@jax.jit
def _predict(network: Layers, embeddings: Float[Array, "B M"]) -> Float[Array, "B G"]:
    hidden = jax.nn.gelu(jnp.matmul(embeddings, network["in"]) + network["in_bias"][None])
    return jax.nn.sigmoid(jnp.matmul(hidden, network["out"]) + network["out_bias"][None])


@jax.jit
def _fit(embeddings: Float[Array, "N M"], losses: Float[Array, "N G"], key: Key[Array, ""]) -> Layers:
    size, points = embeddings.shape[1], losses.shape[1]
    first, drawing = jax.random.split(key)
    start = {
        "in": jax.random.normal(first, (size, HIDDEN)),  # unit vectors in, so unit variance out
        "in_bias": jnp.zeros(HIDDEN),
        "out": jnp.zeros((HIDDEN, points)),
        "out_bias": jnp.zeros(points),
    }
    optimizer = optax.adamw(optax.cosine_decay_schedule(MLP_RATE, MLP_STEPS), weight_decay=MLP_DECAY)

    def error(network: Layers, rows: Array) -> Float[Array, ""]:
        return jnp.square(_predict(network, embeddings[rows]) - losses[rows]).mean()

    def step(carry: tuple[Layers, Any], key: Key[Array, ""]) -> tuple[tuple[Layers, Any], None]:
        network, state = carry
        rows = jax.random.randint(key, (MLP_BATCH,), 0, len(embeddings))
        updates, state = optimizer.update(jax.grad(error)(network, rows), state, network)
        return (optax.apply_updates(network, updates), state), None

    (fitted, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(drawing, MLP_STEPS))
    return fitted


def train_gate(port: Port, features: Features, answers: Answer, seed: int = 0) -> Params:
    """The port's parameters, with the gate trained on the references' answers; other parameters are frozen.

    Cross-entropy of the answers under the gate's own routing, Adam with a cosine schedule, 400 steps of 64 references.

    Args:
        port: the model; `port.gate` is the path of the gate's parameters.
        features, answers: of the references, answered correctly or not; every leaf has a leading axis N.
        seed: of the order of the references.

    Raises:
        R2T2Error: the port has no path of its gate.
    """
    selected = check_gate(port)
    return _train(port.params, features, answers, jax.random.key(seed), model=port.model, selected=selected)


def check_gate(port: Port) -> tuple[bool, ...]:
    """Which of the parameters are those of the gate.

    Raises:
        R2T2Error: the port has no path of its gate, or no parameters there.
    """
    if not port.gate:
        raise R2T2Error(f"{port.name} has no path of its gate's parameters (Port.gate): the gate cannot be fine-tuned")
    selected = select_params(port.params, [port.gate])
    if not any(selected):
        raise R2T2Error(f"{port.name} has no parameters below {port.gate!r}, the path in Port.gate")
    return selected


@partial(jax.jit, static_argnames="model")
def route_by(params: Params, features: Features, *, model: RoutedModel) -> Float[Array, "B L E"]:
    """The routing of a gate for the test samples; the mean over tokens if gates are per token, as r0."""
    return jax.lax.map(partial(model.route, params), features)


@partial(jax.jit, static_argnames=("model", "selected"))
def _train(
    params: Params,
    features: Features,
    answers: Answer,
    key: Key[Array, ""],
    *,
    model: RoutedModel,
    selected: tuple[bool, ...],
) -> Params:
    gate, joined = partition(params, selected)
    optimizer = optax.adam(optax.cosine_decay_schedule(GATE_RATE, GATE_STEPS))
    count = jax.tree.leaves(answers)[0].shape[0]

    def loss(gate: list[Array], rows: Array) -> Float[Array, ""]:
        batch = jax.tree.map(lambda leaf: leaf[rows], (features, answers))
        return jax.vmap(lambda f, a: model.answer_loss(joined(gate), f, None, a))(*batch).mean()

    def step(carry: tuple[list[Array], Any], key: Key[Array, ""]) -> tuple[tuple[list[Array], Any], None]:
        gate, state = carry
        rows = jax.random.randint(key, (min(GATE_BATCH, count),), 0, count)
        updates, state = optimizer.update(jax.grad(loss)(gate, rows), state)
        return (optax.apply_updates(gate, updates), state), None

    (gate, _), _ = jax.lax.scan(step, (gate, optimizer.init(gate)), jax.random.split(key, GATE_STEPS))
    return joined(gate)
