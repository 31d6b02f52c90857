"""Times implementations with a number of threads or devices in a process of `benchmarks/speed.py`; prints JSON.

    python -m benchmarks.speed_worker devices problem.npz all '{"batch": 8, "k": 5, "steps": 10, "repeats": 3}'
    echo ours 8 | python -m benchmarks.speed_worker ours problem.npz one '{"k": 5, "steps": 10, "repeats": 3}'

PyTorch and JAX never run in the same process, where their threads would compete. Where they are compared, each process
runs a version whenever it reads its name and a batch size, and prints the seconds, so that the runs of all alternate.

Axis letters: B test samples, K neighbors, S steps, N bank size.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed_problem import FINAL_RATE, RATE, DescentProblem, rates

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from r2t2_jax.contract import Rerouted

EMBEDDING = 384  # size of the random embeddings, that of MiniLM
PRESET: dict[str, Any] = {
    "space.kind": "simplex",
    "descent.learning_rate": RATE,
    "descent.final_learning_rate": FINAL_RATE,
}


def time_runs(run: Callable[[], Any], samples: int, repeats: int) -> dict[str, float]:
    """Seconds per sample: median and quartiles of `repeats` runs after a first run, whose extra time is separate."""
    first, *seconds = (timed(run) for _ in range(1 + repeats))
    return summary(first, seconds, samples)


def timed(run: Callable[[], Any]) -> float:
    """The seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def summary(first: float, seconds: Sequence[float], samples: int) -> dict[str, float]:
    """Median and quartiles of the seconds per sample, and the extra seconds of the first run."""
    low, median, high = (np.quantile(seconds, (0.25, 0.5, 0.75)) / samples).tolist()
    extra = max(first - samples * median, 0.0)  # compilation and other work of the first call
    return {"seconds_per_sample": median, "low": low, "high": high, "first_call_extra_seconds": extra}


def ours(
    problem: DescentProblem, steps: int, mesh: Mesh | None = None, vmap_size: int | None = None
) -> Callable[[], Rerouted]:
    """NGD with `reroute_batch` on arrays on the device, by default as `r2t2_jax.reroute` calls it."""
    import jax

    from r2t2_jax.method.rerouting import reroute_batch

    arguments = descent_arguments(problem, steps)
    options = default_options(arguments[1]) | ({} if vmap_size is None else {"vmap_size": vmap_size})

    def run() -> Rerouted:
        return jax.block_until_ready(reroute_batch(*arguments, mesh=mesh, **options))

    return run


def default_options(model: Any) -> dict[str, int]:
    """The vmap size and the number of threads with which a model is re-routed by default."""
    from r2t2_jax.contract import default_vmap_size
    from r2t2_jax.runtime.batching import threads_at_a_time

    return {"vmap_size": default_vmap_size(model), "threads": threads_at_a_time()}


def descent_arguments(problem: DescentProblem, steps: int) -> tuple[Any, ...]:
    """The arguments of `reroute_batch` for NGD on this problem."""
    from r2t2_jax.method.presets import Preset
    from r2t2_jax.methods import strategy
    from r2t2_jax.retrieval.neighbors import sample_keys

    port, queries, references = on_device(problem)
    descent = strategy(
        "ngd", Preset.from_mapping({"neighborhood.k": problem.weights.shape[1], "descent.steps": steps, **PRESET})
    )
    return descent, port.model, port.params, queries, references, sample_keys(0, np.arange(len(problem.routing)))


def on_device(problem: DescentProblem) -> tuple[Any, Any, Any]:
    """The model, queries and references; NGD reads only the routing of a query."""
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


def torch_descents(problem: DescentProblem, steps: int) -> dict[str, Callable[[], Any]]:
    """The PyTorch versions with their tensors; `torch.compile` compiles the loss, and the loop takes its gradient."""
    import torch

    from tests.ports.pocket.torch_pocket import TorchPocket, one_by_one, together

    net = TorchPocket(problem.model)
    samples, k = problem.weights.shape
    flat = {name: leaf.reshape(samples * k, *leaf.shape[2:]) for name, leaf in problem.features.items()}
    tokens, mask = (leaf.reshape(samples * k, -1) for leaf in (problem.tokens, problem.mask))
    batch = net.neighbors(flat, tokens, mask)

    def neighbor(row: int) -> Any:
        features = {name: leaf[row : row + 1] for name, leaf in flat.items()}
        return net.neighbors(features, tokens[row : row + 1], mask[row : row + 1])

    each = [[neighbor(sample * k + i) for i in range(k)] for sample in range(samples)]

    @cache
    def compiled_net() -> TorchPocket:
        compiled = TorchPocket(problem.model)
        compiled.losses = torch.compile(net.losses, dynamic=False)  # type: ignore[method-assign]
        return compiled

    routing, weights = torch.from_numpy(problem.routing.copy()), torch.from_numpy(problem.weights.copy())
    return {
        "one_by_one": lambda: one_by_one(net, each, routing, weights, rates(steps)),
        "batched": lambda: together(net, batch, routing, weights, rates(steps)),
        "compiled": lambda: together(compiled_net(), batch, routing, weights, rates(steps)),
    }


def measure_ours(problem: DescentProblem, k: int, steps: int, repeats: int) -> dict[str, Any]:
    """Run ours on request; then the counted FLOPs of every batch size, and the FLOP/s of one large float32 product."""
    batches = run_on_request(lambda b: {"ours": ours(problem.take(b, k), steps)})
    flops = {str(b): counted_flops(problem.take(b, k), steps) / b for b in batches}
    return {"flops_per_sample": flops, "product": product_rate(repeats)}


def measure_torch(problem: DescentProblem, k: int, steps: int, repeats: int) -> dict[str, Any]:
    """Run the PyTorch versions on request."""
    run_on_request(lambda b: torch_descents(problem.take(b, k), steps))
    return {}


def run_on_request(make_runs: Callable[[int], Mapping[str, Callable[[], Any]]]) -> list[int]:
    """For each line of standard input, a version and a batch size, run it and print the seconds.

    Args:
        make_runs: a batch size to the versions, which are kept until another size is requested.

    Returns:
        The batch sizes.
    """
    batches: list[int] = []
    runs: Mapping[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name, size = line.split()
        if int(size) not in batches[-1:]:
            batches.append(int(size))
            runs = make_runs(int(size))
        print(timed(runs[name]), flush=True)
    return batches


def counted_flops(problem: DescentProblem, steps: int) -> int:
    """FLOPs of the products in the program of `ours`."""
    from r2t2_jax.costs.jaxpr import count_flops
    from r2t2_jax.method.rerouting import trace_batch

    return count_flops(trace_batch(*descent_arguments(problem, steps)).jaxpr)


def product_rate(repeats: int, size: int = 2048) -> float:
    """FLOP/s of one float32 product of two square matrices: the median of `repeats` runs."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    timing = time_runs(lambda: product(matrix).block_until_ready(), 1, repeats)
    return 2 * size**3 / timing["seconds_per_sample"]


def measure_scaling(
    problem: DescentProblem, axes: dict[str, Sequence[int]], batch: int, k: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Times of ours with one setting varied at a time; times for the bank size include retrieval."""
    timings: dict[str, Any] = {}
    for axis, values in axes.items():
        timings[axis] = {}
        for value in values:
            setting = {"B": batch, "k": k, "S": steps, "vmap_size": None, axis: value}
            cut = problem.take(setting["B"], setting["k"])
            run = (
                with_bank(cut, steps, value) if axis == "N" else ours(cut, setting["S"], vmap_size=setting["vmap_size"])
            )
            timings[axis][str(value)] = time_runs(run, setting["B"], repeats)
    return timings


def with_bank(problem: DescentProblem, steps: int, size: int) -> Callable[[], Any]:
    """Retrieval from a bank of `size` references followed by NGD.

    The embeddings are random; the features of a bank row are those of a reference of the problem.
    """
    import jax

    from r2t2_jax.bank import ReferenceBank
    from r2t2_jax.method.kernels import Gaussian
    from r2t2_jax.method.presets import Preset
    from r2t2_jax.method.rerouting import reroute_batch
    from r2t2_jax.methods import strategy
    from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys, select

    samples, k = problem.weights.shape
    port, queries, references = on_device(problem)
    stored = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(samples * k, *leaf.shape[2:]), (references.features, references.answers)
    )
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(size + samples, EMBEDDING)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    routing = problem.routing[np.arange(size) % samples]

    def read(rows: np.ndarray) -> Any:
        return jax.tree.map(lambda leaf: leaf[rows % (samples * k)], stored)

    bank = ReferenceBank(None, None, routing, vectors[samples:], reader=read)
    index, keys, options = bank.index(), sample_keys(0, np.arange(samples)), default_options(port.model)
    descent = strategy("ngd", Preset.from_mapping({"neighborhood.k": k, "descent.steps": steps, **PRESET}))

    def run() -> Any:
        neighbors = bank.references(select(NearestNeighbors(k), index, vectors[:samples], keys), Gaussian())
        rerouted = reroute_batch(descent, port.model, port.params, queries, neighbors, keys, **options)
        return jax.block_until_ready(rerouted)

    return run


def measure_devices(problem: DescentProblem, batch: int, k: int, steps: int, repeats: int) -> dict[str, float]:
    """Time of ours with the batch split over all devices of this process."""
    import jax

    return time_runs(
        ours(problem.take(batch, k), steps, jax.make_mesh((jax.device_count(),), ("data",))), batch, repeats
    )


INSTRUCTION = re.compile(r"%?(\S+) = (?:\()?\w+\[([\d,]*)\]\S* (\w[\w-]*)\(")
COMPUTATION = re.compile(r"%?(\S+) \(.*\) -> .* \{$")
CALL = re.compile(r"%?(\S+) = .* fusion\(.*calls=%?([^\s,]+)")
SMALL_PRODUCTS = "products and sums of one neighbor, expert or head"
COPIES = ("copy", "transpose", "concatenate", "slice", "pad", "broadcast", "bitcast_pad", "bitcast_slice")


def measure_profile(problem: DescentProblem, batch: int, k: int, steps: int, repeats: int) -> dict[str, float]:
    """Microseconds of one step of one sample by kind of operation, from the profile of `ours` in one thread.

    Operations of several samples computed together are divided by their number. The time of an operation is the lower
    quartile of its runs, which other processes disturb least. The profiler adds about half a microsecond to each.
    """
    import jax
    from jax.profiler import ProfileData, ProfileOptions

    from r2t2_jax.contract import OUTER_PRODUCTS
    from r2t2_jax.method.rerouting import trace_batch

    cut = problem.take(batch, k)
    run, arguments = ours(cut, steps), descent_arguments(cut, steps)
    run()
    together = min(default_options(arguments[1])["vmap_size"], batch)
    lines = trace_batch(*arguments, vmap_size=together).lower().compile().as_text().splitlines()
    ranks = {match[1]: match[2].count(",") + 1 for line in lines if (match := INSTRUCTION.search(line))}
    outer = fusions_of(lines, f"/{OUTER_PRODUCTS}/mul")
    durations: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        options = ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(repeats):
                run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        for plane in ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    if event.name in ranks:
                        durations.setdefault(event.name, []).append(event.duration_ns)
    runs = repeats * -(-batch // together) * steps
    kinds: dict[str, float] = {"samples together": together}
    for name, times in durations.items():
        if len(times) >= runs:  # inside the steps
            kind = SMALL_PRODUCTS if name in outer else kind_of(name, ranks[name])
            microseconds = float(np.quantile(times, 0.25)) / 1e3 / together
            kinds[kind] = kinds.get(kind, 0.0) + len(times) / runs * microseconds
            kinds[f"{kind}, count"] = kinds.get(f"{kind}, count", 0.0) + len(times) / runs
    return kinds


def fusions_of(lines: Sequence[str], operation: str) -> set[str]:
    """The fusions of a compiled program that contain an operation, by a part of its name."""
    bodies, fusions, body = set(), set(), ""
    for line in lines:
        if match := COMPUTATION.match(line):
            body = match[1]
        elif operation in line:
            bodies.add(body)
    for line in lines:
        if (match := CALL.search(line)) and match[2] in bodies:
            fusions.add(match[1])
    return fusions


def kind_of(name: str, rank: int) -> str:
    """The kind of an operation of a compiled program: by its name and the rank of its result."""
    if name.startswith(("ynn", "dot")):
        return "products with weights" if rank == 2 else SMALL_PRODUCTS
    return "copies and transpositions" if name.startswith(COPIES) else "other element-wise operations"


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "ours": measure_ours,
    "torch": measure_torch,
    "scaling": measure_scaling,
    "devices": measure_devices,
    "profile": measure_profile,
}


def pin_to_one_core() -> None:
    """Run this process on one core, if the operating system supports it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    name, path, threads, settings = sys.argv[1:]
    if threads == "one":  # PyTorch and XLA use as many threads as there are cores
        pin_to_one_core()
    print(json.dumps(MEASURES[name](DescentProblem.read(Path(path)), **json.loads(settings))))
