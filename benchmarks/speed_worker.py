"""One process of `benchmarks/speed.py`: one implementation on so many threads or devices, timed; prints JSON.

    python -m benchmarks.speed_worker ours problem.npz one '{"batches": [1, 8], "k": 5, "steps": 10, "repeats": 3}'

PyTorch and JAX never run in the same process, where the threads of one would wait beside those of the other.

Axis letters: B test samples, K neighbours, S steps, N bank size.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed_problem import FINAL_RATE, RATE, Problem, rates

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from r2t2_jax.contract import Rerouted

EMBEDDING = 384  # numbers of a drawn one, as many as MiniLM's
PRESET: dict[str, Any] = {"space": "simplex", "learning_rate": RATE, "final_learning_rate": FINAL_RATE}


def timed(run: Callable[[], Any], cases: int, repeats: int) -> dict[str, float]:
    """Seconds a case: the median and quartiles of `repeats` runs after a first one, whose whole time stands apart."""
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append((time.perf_counter() - start) / cases)
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    once = max(first - cases * median, 0.0)  # compiling, or whatever else a first call does
    return {"seconds_a_case": median, "low": low, "high": high, "first_call_extra_seconds": once}


def ours(problem: Problem, steps: int, mesh: Mesh | None = None, vmap_size: int = 1) -> Callable[[], Rerouted]:
    """NGD by `reroute_batch`, its arrays on the device."""
    import jax

    from r2t2_jax.method.presets import Preset
    from r2t2_jax.method.rerouting import reroute_batch
    from r2t2_jax.methods import strategy
    from r2t2_jax.retrieval.neighbors import sample_keys

    port, queries, references = on_device(problem)
    descent = strategy("ngd", Preset(k=problem.weights.shape[1], steps=steps, **PRESET))
    given = descent, port.model, port.params, queries, references, sample_keys(0, np.arange(len(problem.routing)))

    def run() -> Rerouted:
        return jax.block_until_ready(reroute_batch(*given, mesh, vmap_size))

    return run


def on_device(problem: Problem) -> tuple[Any, Any, Any]:
    """The model, queries and references. NGD reads nothing of a query but its routing."""
    import jax.numpy as jnp

    from benchmarks.speed_problem import GATE
    from ports.pocket.modeling import PocketAnswer, PocketFeatures
    from r2t2_jax.contract import Query, References
    from r2t2_jax.plugins import load

    routing = jnp.asarray(problem.routing)
    features = PocketFeatures(**{name: jnp.asarray(leaf) for name, leaf in problem.features.items()})
    answers = PocketAnswer(jnp.asarray(problem.tokens), jnp.asarray(problem.mask))
    queries = Query(routing, routing, jnp.ones(routing.shape, bool))
    return load(GATE), queries, References(None, features, answers, weights=jnp.asarray(problem.weights))


def torch_descents(problem: Problem, steps: int) -> dict[str, Callable[[], Any]]:
    """Both PyTorch versions, their tensors made."""
    import torch

    from tests.ports.pocket.torch_pocket import TorchPocket, one_by_one, together

    net = TorchPocket(problem.model)
    samples, k = problem.weights.shape
    flat = {name: leaf.reshape(samples * k, *leaf.shape[2:]) for name, leaf in problem.features.items()}
    tokens, mask = (leaf.reshape(samples * k, -1) for leaf in (problem.tokens, problem.mask))
    near = net.neighbors(flat, tokens, mask)

    def one(row: int) -> Any:
        alone = {name: leaf[row : row + 1] for name, leaf in flat.items()}
        return net.neighbors(alone, tokens[row : row + 1], mask[row : row + 1])

    each = [[one(sample * k + place) for place in range(k)] for sample in range(samples)]
    routing, weights = torch.from_numpy(problem.routing.copy()), torch.from_numpy(problem.weights.copy())
    return {
        "one_by_one": lambda: one_by_one(net, each, routing, weights, rates(steps)),
        "together": lambda: together(net, near, routing, weights, rates(steps)),
    }


def measure_ours(problem: Problem, batches: Sequence[int], k: int, steps: int, repeats: int) -> dict[str, Any]:
    """Ours at every batch size."""
    return {"ours": {str(b): timed(ours(problem.take(b, k), steps), b, repeats) for b in batches}}


def measure_torch(problem: Problem, batches: Sequence[int], k: int, steps: int, repeats: int) -> dict[str, Any]:
    """Both PyTorch versions at every batch size."""
    found: dict[str, Any] = {}
    for b in batches:
        for name, run in torch_descents(problem.take(b, k), steps).items():
            found.setdefault(name, {})[str(b)] = timed(run, b, repeats)
    return found


def measure_scaling(
    problem: Problem, axes: dict[str, Sequence[int]], batch: int, k: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Ours along one axis at a time, from the same middle; a bank's size counts with retrieval in the time."""
    found: dict[str, Any] = {}
    for axis, values in axes.items():
        found[axis] = {}
        for value in values:
            at = {"B": batch, "k": k, "S": steps, "vmap_size": 1, axis: value}
            cut = problem.take(at["B"], at["k"])
            run = with_bank(cut, steps, value) if axis == "N" else ours(cut, at["S"], vmap_size=at["vmap_size"])
            found[axis][str(value)] = timed(run, at["B"], repeats)
    return found


def with_bank(problem: Problem, steps: int, size: int) -> Callable[[], Any]:
    """Retrieval from a bank of `size` and NGD on what was found.

    Embeddings are drawn; a bank row's features are those of one of the problem's references.
    """
    import jax

    from r2t2_jax.bank import ReferenceBank
    from r2t2_jax.method.kernels import Gaussian
    from r2t2_jax.method.presets import Preset
    from r2t2_jax.method.rerouting import reroute_batch
    from r2t2_jax.methods import strategy
    from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys, select

    samples, k = problem.weights.shape
    port, queries, near = on_device(problem)
    known = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(samples * k, *leaf.shape[2:]), (near.features, near.answers)
    )
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(size + samples, EMBEDDING)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    routing = problem.routing[np.arange(size) % samples]

    def read(rows: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[rows % (samples * k)], known)

    bank = ReferenceBank(None, None, routing, drawn[samples:], reader=read)
    index, keys = bank.index(), sample_keys(0, np.arange(samples))
    descent = strategy("ngd", Preset(k=k, steps=steps, **PRESET))

    def run() -> Any:
        found = bank.references(select(NearestNeighbors(k), index, drawn[:samples], keys), Gaussian())
        return jax.block_until_ready(reroute_batch(descent, port.model, port.params, queries, found, keys))

    return run


def measure_devices(problem: Problem, batch: int, k: int, steps: int, repeats: int) -> dict[str, float]:
    """Ours shared among all the devices of this process."""
    import jax

    return timed(ours(problem.take(batch, k), steps, jax.make_mesh((jax.device_count(),), ("data",))), batch, repeats)


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": measure_ours,
    "torch": measure_torch,
    "scaling": measure_scaling,
    "devices": measure_devices,
}


def pin() -> None:
    """Keep this process on the first of its cores, where the system lets one choose."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    name, path, threads, settings = sys.argv[1:]
    if threads == "one":  # PyTorch and XLA take as many threads as there are cores to run on
        pin()
    print(json.dumps(MEASURES[name](Problem.read(Path(path)), **json.loads(settings))))
