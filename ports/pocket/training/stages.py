"""The training stages: vision encoders on proxy tasks, alignment, language model, gates.

Mixers, projector and language model train under random routing, so that every expert becomes usable. The alignment
stage trains linear probes that read every attribute from the image tokens, each weighted by its expert's routing
weight. Then the language model learns to answer. Early most questions have a routing that favors the experts they need
(otherwise the answer is seldom in the image tokens); later most have a random one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ports.pocket.config import PocketConfig
from ports.pocket.layers import VisionEncoder, rms_norm
from ports.pocket.modeling import PocketAnswer, PocketFeatures, PocketNet, shift_right
from ports.pocket.scenes import GRID, VALUES, Scene
from ports.pocket.training.data import Examples
from ports.pocket.training.optimize import TrainingStage, optimize

NOISE = 0.3  # on the bottleneck, so that it can carry the expert's own attribute and little else
CLASSES = {**{name: len(values) for name, values in VALUES.items()}, "position": GRID * GRID, "base": 1}
STEPS = {"color": 500, "shape": 1200, "texture": 700, "glyph": 1500, "size": 900, "position": 300, "base": 400}


def proxy_labels(scenes: list[Scene]) -> dict[str, Int[np.ndarray, "n I"]]:
    """For each attribute, the class of the object in each cell; empty cells have the last class."""
    labels = {name: np.full((len(scenes), GRID * GRID), count, np.int32) for name, count in CLASSES.items()}
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            for name in VALUES:
                labels[name][row, thing.cell] = getattr(thing, name)
            labels["position"][row, thing.cell] = thing.cell
            labels["base"][row, thing.cell] = 0
    return labels


def train_encoder(
    config: PocketConfig,
    name: str,
    images: UInt8[Array, "n 96 96 3"],
    labels: Int[Array, "n I"],
    plan: TrainingStage,
    checkpoint: Path,
) -> tuple[Any, Float[Array, "F C"]]:
    """Train one encoder and the linear head of its proxy task; returns both."""
    seed = plan.seed
    encoder = VisionEncoder(config, nnx.Rngs(seed))
    graph, params = nnx.split(encoder)
    head = jax.random.normal(jax.random.key(seed), (config.expert_width, CLASSES[name] + 1)) * 0.3

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        (picked,), (images, labels) = data
        features = nnx.merge(graph, params[0])(images[picked])
        features = features + NOISE * jax.random.normal(key, features.shape)
        truth = labels[picked]
        weight = jnp.where(truth == CLASSES[name], 0.25, 1.0)  # most cells are empty
        losses = optax.softmax_cross_entropy_with_integer_labels(features @ params[1], truth)
        return (losses * weight).sum() / weight.sum()

    rows = (jnp.arange(images.shape[0]),)
    return optimize(loss, (params, head), (rows, (images, labels)), plan, f"{name} expert", checkpoint)


def leakage(features: Float[np.ndarray, "n I F"], labels: dict[str, Int[np.ndarray, "n I"]]) -> dict[str, float]:
    """Accuracy of a ridge classifier for every attribute on occupied cells, fitted on one half, tested on the other."""
    scores = {}
    for name, truth in labels.items():
        if name == "base":
            continue
        occupied = labels["base"] == 0
        x, y = features[occupied], truth[occupied]
        x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
        half = len(x) // 2
        onehot = np.eye(CLASSES[name], dtype=np.float32)[y[:half]]
        solved = np.linalg.solve(x[:half].T @ x[:half] + 1e-2 * np.eye(x.shape[1]), x[:half].T @ onehot)
        scores[name] = float(((x[half:] @ solved).argmax(-1) == y[half:]).mean())
    return scores


CHANNEL_NOISE = 0.15
IMAGE_SIDE = ("stream", "mixers", "project_in", "project_out", "image_position_embedding")
LANGUAGE = (
    *IMAGE_SIDE,
    "embed_tokens",
    "question_position_embedding",
    "answer_position_embedding",
    "blocks",
    "lm_head",
)


def random_routing(config: PocketConfig, key: Array) -> Float[Array, "L E"]:
    """Dirichlet weights from nearly one-hot to nearly uniform; equal in all mixers with probability 1/2."""
    draw, tie, peak = jax.random.split(key, 3)
    sharpness = jax.random.choice(peak, jnp.array([0.15, 0.5, 2.0]))
    weights = jax.random.dirichlet(draw, jnp.full(len(config.experts), sharpness), (config.mixers,))
    return jnp.where(jax.random.bernoulli(tie), weights[:1], weights)


def informed_routing(config: PocketConfig, needs: Float[Array, "E"], share: Array, key: Array) -> Float[Array, "L E"]:
    """With probability `share` mostly the needed experts, otherwise random weights."""
    draw, choose, blend = jax.random.split(key, 3)
    weights = random_routing(config, draw)
    mixed = jax.random.uniform(blend, maxval=0.5)
    return jnp.where(jax.random.bernoulli(choose, share), (1 - mixed) * needs[None] + mixed * weights, weights)


def token_loss(logits: Float[Array, "A V"], answer: PocketAnswer) -> Float[Array, ""]:
    """Mean cross-entropy of an answer's tokens."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, answer.tokens)
    return jnp.where(answer.mask, losses, 0.0).sum() / answer.mask.sum()


def train_alignment(
    config: PocketConfig,
    net: PocketNet,
    vision: Float[Array, "n E+1 I F"],
    labels: Mapping[str, Int[np.ndarray, "n I"]],
    plan: TrainingStage,
    checkpoint: Path,
) -> nnx.State:
    """Train mixers and projector to pass on the attributes of the weighted experts; returns all parameters."""
    trained, frozen, graph = _split(net, IMAGE_SIDE)
    keys = jax.random.split(jax.random.key(plan.seed), len(config.experts))
    probes = {
        name: 0.1 * jax.random.normal(key, (config.width, CLASSES[name] + 1))
        for name, key in zip(config.experts, keys, strict=True)
    }

    def sample_loss(net: PocketNet, probes: Any, vision: Array, truth: dict[str, Array], key: Array) -> Array:
        route, noise = jax.random.split(key)
        weights = random_routing(config, route)
        nothing = jnp.zeros(config.question_length, jnp.int32)
        features = net.encode(vision, nothing, nothing.astype(bool))
        image = net.project(noisy(net.combine_experts(features, weights), noise))
        share = weights.mean(axis=0) * len(config.experts)
        losses = [
            optax.softmax_cross_entropy_with_integer_labels(image @ probes[name], truth[name])
            * jnp.where(truth[name] == CLASSES[name], 0.25, 1.0)
            for name in config.experts
        ]
        return (jnp.stack(losses).mean(axis=1) * share).sum()

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        (picked,), (frozen, vision, labels) = data
        net = nnx.merge(graph, params[0], frozen)
        truth = {name: labels[name][picked] for name in config.experts}
        keys = jax.random.split(key, picked.shape[0])
        return jax.vmap(sample_loss, in_axes=(None, None, 0, 0, 0))(net, params[1], vision[picked], truth, keys).mean()

    rows = (jnp.arange(vision.shape[0]),)
    shared = (frozen, vision, {name: jnp.asarray(labels[name]) for name in config.experts})
    trained, _ = optimize(loss, (trained, probes), (rows, shared), plan, "alignment", checkpoint)
    return nnx.merge_state(trained, frozen)


def noisy(stream: Float[Array, "I W"], key: Array) -> Float[Array, "I W"]:
    """The stream with noise, so that the language model cannot read experts with weights of a few percent."""
    return stream + CHANNEL_NOISE * jax.random.normal(key, stream.shape)


def hint_loss(
    net: PocketNet, roles: Float[Array, "2 D 3"], states: Float[Array, "depth I D"], example: Examples
) -> Float[Array, ""]:
    """Auxiliary loss on image tokens: they predict whether the question refers to their cell (after the first block and
    before the last), and, in the subject's cell before the last block, the answer's first word.
    """
    weight = jnp.where(example.roles == 0, 0.3, 1.0)
    guesses = jnp.stack([states[1] @ roles[0], states[-1] @ roles[1]])
    role_losses = optax.softmax_cross_entropy_with_integer_labels(guesses, jnp.stack([example.roles] * 2))
    subject = example.roles == 1
    word_losses = optax.softmax_cross_entropy_with_integer_labels(
        net.lm_head(rms_norm(states[-1])), jnp.broadcast_to(example.answer.tokens[0], example.roles.shape)
    )
    return (role_losses * weight[None]).mean() + 0.5 * jnp.where(subject, word_losses, 0.0).sum() / jnp.maximum(
        subject.sum(), 1
    )


def train_language(
    config: PocketConfig,
    net: PocketNet,
    vision: Float[Array, "n E+1 I F"],
    examples: Examples,
    plan: TrainingStage,
    checkpoint: Path,
) -> nnx.State:
    """Train the language model to answer under random routing; returns all parameters.

    `hint_loss` is added to the loss of the answer: without it, relations between two objects stay at chance.
    """
    trained, frozen, graph = _split(net, LANGUAGE)
    roles = 0.1 * jax.random.normal(jax.random.key(plan.seed), (2, config.width, 3))

    def sample_losses(
        net: PocketNet, roles: Array, vision: Array, example: Examples, share: Array, key: Array
    ) -> tuple:
        route, noise = jax.random.split(key)
        weights = informed_routing(config, example.needs, share, route)
        features: PocketFeatures = net.encode(vision, example.tokens, example.mask)
        image = net.project(noisy(net.combine_experts(features, weights), noise))
        keys, values, states = net.prefill_image(features, image)
        logits = net.answer_logits(keys, values, example.mask, shift_right(example.answer.tokens))
        return token_loss(logits, example.answer), hint_loss(net, roles, states, example)

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        examples, (frozen, vision) = data
        net = nnx.merge(graph, params[0], frozen)
        share = jnp.interp(progress, jnp.array([0.0, 0.15, 0.5, 1.0]), jnp.array([0.8, 0.8, 0.4, 0.25]))
        keys = jax.random.split(key, examples.scene.shape[0])
        answer, hints = jax.vmap(sample_losses, in_axes=(None, None, 0, 0, None, 0))(
            net, params[1], vision[examples.scene], examples, share, keys
        )
        return answer.mean() + hints.mean()

    trained, _ = optimize(loss, (trained, roles), (examples, (frozen, vision)), plan, "language", checkpoint)
    return nnx.merge_state(trained, frozen)


def _split(net: PocketNet, names: tuple[str, ...]) -> tuple[Any, Any, Any]:
    """Parameters to train, frozen parameters, and the structure."""
    graph, *states = nnx.split(net, lambda path, _: path[0] in names, ...)
    trained, frozen = states
    return trained, frozen, graph


NARROW = ("color", "shape")  # question families of the narrow gate's training


def train_gate(
    net: PocketNet, vision: Float[Array, "n E+1 I F"], examples: Examples, plan: TrainingStage, checkpoint: Path
) -> Any:
    """Train the gate by the answer's cross-entropy; returns the gate's parameters."""
    graph, *states = nnx.split(net, lambda path, _: path[0] == "gate", ...)
    gate, frozen = states

    def sample_loss(net: PocketNet, vision: Array, example: Examples) -> Array:
        features = net.encode(vision, example.tokens, example.mask)
        image = net.project(net.combine_experts(features, jax.nn.softmax(net.gate_logits(features))))
        keys, values, _ = net.prefill_image(features, image)
        return token_loss(
            net.answer_logits(keys, values, example.mask, shift_right(example.answer.tokens)), example.answer
        )

    def loss(params: Any, data: Any, key: Array, progress: Array) -> Array:
        examples, (frozen, vision) = data
        net = nnx.merge(graph, params, frozen)
        return jax.vmap(sample_loss, in_axes=(None, 0, 0))(net, vision[examples.scene], examples).mean()

    return optimize(loss, gate, (examples, (frozen, vision)), plan, "gate", checkpoint)
