"""Compares `lax.map` with `vmap` over the samples of a batch: speed, and dependence of a result on the batch size.

    python -m benchmarks.lax_map_or_vmap

The program is NGD (5 neighbors, 10 steps) on a mixture of experts over 64 tokens of width 128, on a CPU. The numbers go
to `benchmarks/results/lax_map_or_vmap.json`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.contract import LossModel, Query, References
from r2t2_jax.method.rerouting import reroute_sample
from r2t2_jax.methods import strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import RoutingSpec

L, E, K, T, D = 2, 6, 5, 64, 128
BATCH, REPEATS = 16, 5
SIZES = (1, 2, 3, 5, 8, 13)  # smaller batches of the same samples
RESULTS = Path(__file__).parent / "results" / "lax_map_or_vmap.json"


def answer_loss(params: jax.Array, features: jax.Array, weights: jax.Array, answer: jax.Array) -> jax.Array:
    """Squared error of two mixed layers; params [L, E, D, D], features [T, D], weights [L, E], answer [D]."""

    def layer(x: jax.Array, of: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        row, experts = of
        return x + jnp.einsum("e,etf->tf", row, jnp.tanh(jnp.einsum("td,edf->etf", x, experts))), None

    x, _ = jax.lax.scan(layer, features, (weights, params))
    return jnp.square(x.mean(axis=0) - answer).mean()


def samples(count: int) -> tuple[jax.Array, Query, References, jax.Array]:
    """Parameters, queries, references and keys."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    routing = jax.nn.softmax(normal(count, L, E))
    query = Query(normal(count, T, D), routing, jnp.ones((count, L, E), bool))
    references = References(None, normal(count, K, T, D), normal(count, K, D), weights=jnp.ones((count, K)))
    return normal(L, E, D, D) / D**0.5, query, references, sample_keys(0, np.arange(count))


def runners() -> dict[str, Callable[..., jax.Array]]:
    """By name, a function that returns the losses along the path of each sample of a batch."""
    model = LossModel(answer_loss, RoutingSpec(tuple("abcdef"), L))
    reroute = partial(reroute_sample, strategy("ngd"), model)

    def mapped(params: jax.Array, *batch: Any) -> jax.Array:
        return jax.lax.map(lambda sample: reroute(params, *sample).losses, batch)

    def vmapped(params: jax.Array, *batch: Any) -> jax.Array:
        return jax.vmap(lambda *sample: reroute(params, *sample).losses)(*batch)

    return {"lax.map": jax.jit(mapped), "vmap": jax.jit(vmapped)}


def measure() -> dict[str, Any]:
    """Seconds per sample, and the largest change of a sample's losses in smaller batches."""
    params, *batch = samples(BATCH)
    report: dict[str, Any] = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "batch": BATCH}
    for name, run in runners().items():
        whole = np.asarray(run(params, *batch))
        change = 0.0
        for size in SIZES:
            smaller = np.asarray(run(params, *jax.tree.map(lambda leaf, size=size: leaf[:size], batch)))
            change = max(change, float(np.abs(whole[:size] - smaller).max()))
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            jax.block_until_ready(run(params, *batch))
            seconds.append(time.perf_counter() - start)
        report[name] = {
            "seconds_per_sample": round(statistics.median(seconds) / BATCH, 5),
            "largest_change_with_batch_size": change,
        }
    return report


if __name__ == "__main__":
    text = json.dumps(measure(), indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")
    print(text)
