"""The training loop of every stage, and its resumable results on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from r2t2_jax.runtime.progress import ProgressBar

Tree = Any


def save_leaves(path: Path, tree: Tree) -> None:
    """Write a pytree's leaves in order with one atomic rename."""
    half = path.with_suffix(".half.npz")
    leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    with open(half, "wb") as file:
        np.savez(file, **leaves)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def load_leaves(path: Path, like: Tree) -> Tree:
    """The leaves that `save_leaves` wrote, in the structure of `like`."""
    with np.load(path) as file:
        leaves = [jnp.asarray(file[f"leaf{i}"]) for i in range(len(jax.tree.leaves(like)))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


@dataclass(frozen=True)
class StageFolder:
    """A folder with the results of one recipe's stages; `recipe` lists all settings that the results depend on."""

    folder: Path
    recipe: str

    def open(self) -> StageFolder:
        """Create the folder. A folder of another recipe is refused with `SystemExit`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        label = self.folder / "recipe.txt"
        if label.exists() and label.read_text(encoding="utf-8") != self.recipe:
            raise SystemExit(
                f"{self.folder} contains the stages of another recipe; choose another --work folder or delete this one"
            )
        label.write_text(self.recipe, encoding="utf-8", newline="\n")
        return self

    def stage(self, name: str, make: Callable[[Path], Tree], like: Tree) -> Tree:
        """The stage's result, read from disk if finished; otherwise `make(checkpoint_file)` computes it."""
        done = self.folder / f"{name}.npz"
        if not done.exists():
            running = self.folder / f"{name}.checkpoint.npz"
            save_leaves(done, make(running))
            running.unlink(missing_ok=True)
        return load_leaves(done, like)


SHOW = 25  # steps between updates of the progress bar
KEEP = 250  # steps between checkpoints

Loss = Callable[[Any, Any, Array, Float[Array, ""]], Float[Array, ""]]


@dataclass(frozen=True)
class TrainingStage:
    """Number of steps, batch size, peak learning rate, seed and weight decay of a stage."""

    steps: int
    batch: int
    rate: float
    seed: int
    decay: float = 1e-4


def optimize(
    loss: Loss, params: Any, data: Any, stage: TrainingStage, title: str, checkpoint: Path | None = None
) -> Any:
    """Minimize `loss(params, (rows, shared), key, progress)` with AdamW under a warm-up and cosine schedule.

    `data` is a tuple of a pytree to draw rows from (leading axis n) and a pytree passed to `loss` whole. `progress`
    runs from 0 to 1. Random draws depend only on seed and step, so a run resumed from `checkpoint` ends with the same
    parameters as an uninterrupted one.
    """
    steps, batch, seed = stage.steps, stage.batch, stage.seed
    rows, shared = data
    count = jax.tree.leaves(rows)[0].shape[0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, stage.rate, min(100, steps // 10), steps, stage.rate * 0.02)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=stage.decay))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, number: Array, rows: Any, shared: Any) -> tuple:
        draw, noise = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
        drawn = jax.random.randint(draw, (batch,), 0, count)
        picked = jax.tree.map(lambda leaf: leaf[drawn], rows)
        value, slope = jax.value_and_grad(loss)(params, (picked, shared), noise, number / steps)
        change, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, change), state, value

    # A Python loop, not a scan: inside a scan XLA's convolutions on the CPU are ten times slower.
    params = jax.tree.map(jnp.copy, params)
    state, first = optimizer.init(params), 0
    if checkpoint is not None and checkpoint.exists():
        params, state, counted = load_leaves(checkpoint, (params, state, jnp.asarray(0)))
        first = int(counted)
    with ProgressBar(total=steps, initial=first, desc=title, unit="step", mininterval=2.0) as bar:
        for number in range(first, steps):
            params, state, value = step(params, state, jnp.asarray(number), rows, shared)
            if checkpoint is not None and number % KEEP == KEEP - 1:
                save_leaves(checkpoint, (params, state, number + 1))
            if number % SHOW == SHOW - 1 or number == steps - 1:
                bar.set_postfix(loss=f"{float(value):.3f}")
                bar.update(number + 1 - bar.n)
    return params
