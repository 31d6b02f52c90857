"""One training loop for every stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from tqdm import tqdm

from ports.pocket.training.workbench import load_leaves, save_leaves

SHOW = 25  # steps between two looks at the progress bar
KEEP = 250  # steps between two checkpoints

Loss = Callable[[Any, Any, Array, Float[Array, ""]], Float[Array, ""]]


@dataclass(frozen=True)
class Plan:
    """How long and how hard a stage trains."""

    steps: int
    batch: int
    rate: float
    seed: int
    decay: float = 1e-4


def optimize(loss: Loss, params: Any, data: Any, plan: Plan, title: str, checkpoint: Path | None = None) -> Any:
    """Minimise `loss(params, (rows, shared), key, progress)` with AdamW under a warm-up and cosine schedule.

    `data` is a tuple of a pytree to draw rows from (leading axis n) and a pytree handed on whole. `progress` runs from
    0 to 1. What is drawn depends on seed and step alone, so a run that goes on from `checkpoint` ends where an
    uninterrupted one does.
    """
    steps, batch, seed = plan.steps, plan.batch, plan.seed
    rows, shared = data
    count = jax.tree.leaves(rows)[0].shape[0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, plan.rate, min(100, steps // 10), steps, plan.rate * 0.02)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=plan.decay))

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
    with tqdm(total=steps, initial=first, desc=title, unit="step", mininterval=2.0) as bar:
        for number in range(first, steps):
            params, state, value = step(params, state, jnp.asarray(number), rows, shared)
            if checkpoint is not None and number % KEEP == KEEP - 1:
                save_leaves(checkpoint, (params, state, number + 1))
            if number % SHOW == SHOW - 1 or number == steps - 1:
                bar.set_postfix(loss=f"{float(value):.3f}")
                bar.update(number + 1 - bar.n)
    return params
