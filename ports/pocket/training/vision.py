"""First stage: every vision expert learns its own proxy task, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ports.pocket.config import PocketConfig
from ports.pocket.modeling import VisionEncoder
from ports.pocket.scenes import GRID, VALUES, Scene
from ports.pocket.training.optimize import Plan, optimize

NOISE = 0.3  # on the bottleneck: leaves room for the expert's own attribute and little else
CLASSES = {**{name: len(values) for name, values in VALUES.items()}, "position": GRID * GRID, "base": 1}
STEPS = {"color": 500, "shape": 1200, "texture": 700, "glyph": 1500, "size": 900, "position": 300, "base": 400}


def proxy_labels(scenes: list[Scene]) -> dict[str, Int[np.ndarray, "n I"]]:
    """Per cell and attribute the class of the object that lies there; empty cells have the last class."""
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
    plan: Plan,
    checkpoint: Path,
) -> tuple[Any, Float[Array, "F C"]]:
    """One encoder and the linear head of its proxy task."""
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
    """Accuracy of a ridge classifier for every attribute on occupied cells: half teaches, half tests."""
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
