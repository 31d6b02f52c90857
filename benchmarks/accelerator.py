"""Re-routing at a model's real size on an accelerator with random weights: milliseconds per sample and throughput.

    python -m benchmarks.accelerator moai:7b,dtype=bfloat16      # an 80 GB accelerator
    python -m benchmarks.accelerator mova:8b
    python -m benchmarks.accelerator moai:tiny --max-vmap-size 2 # a check that it runs, on any machine
    python -m benchmarks.accelerator qwen3_vl_moe:30b-a3b,dtype=bfloat16 --max-vmap-size 0 --pairs 8 32 128

It works for any port with shapes, as `r2t2 fit` and `r2t2 cost` do. It measures the passes of a base answer, exact NGD
with a vmap size of 1, 2, 4, ... until memory runs out, and the loss atlas. A model with `condition` gets conditioned
references; with `--pairs`, NGD and the losses at the atlas's points are also measured at these numbers of (sample,
neighbor) pairs that are computed together. FLOPs are counted in the traced programs
(products and convolutions, including those that `remat` repeats). The ceiling is the throughput of one large matrix
product in the parameters' type on the same device, and the memory rate that of reading one large array; bytes are
those that the compiler states for a program. Weights and inputs are random, so the answers are meaningless. The
results go to `benchmarks/results/accelerator_MODEL_DEVICE.json`.

Axis letters: B samples, K neighbors, G points of the atlas, L routed layers, E experts.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from r2t2_jax.contract import ModelShapes, Query, References, condition, support_of
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load_shapes
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing

RUNS = 5
K, STEPS = 5, 10
PAIR_K = 4  # neighbors of a sample where pairs are counted
ATLAS_K, POINTS = 20, 16
RESULTS = Path(__file__).parent / "results"
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
Timing = dict[str, float]


def random_arrays(shapes: Any, seed: int = 0) -> Any:
    """Random arrays of the given shapes, generated on the device: small numbers, constant tokens, masks all true."""

    @partial(jax.jit, static_argnames=("shape", "dtype"))
    def leaf(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jnp.floating):
            return (0.02 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype)
        return jnp.ones(shape, dtype)

    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    arrays = [leaf(key, shape.shape, jnp.dtype(shape.dtype)) for key, shape in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, arrays)


def seconds_of(run: Callable[[], Any]) -> float:
    """The median time of `RUNS` synchronous runs after a run that compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure(function: Callable[..., Any], *arguments: Any, samples: int = 1) -> Timing:
    """Milliseconds and TFLOP per sample, and TFLOP/s."""
    work = count_flops(jax.make_jaxpr(function)(*arguments))
    program = jax.jit(function)
    seconds = seconds_of(lambda: program(*arguments))
    read = (program.lower(*arguments).compile().cost_analysis() or {}).get("bytes accessed", 0.0)
    return {
        "milliseconds": 1e3 * seconds / samples,
        "TFLOP": work / samples / 1e12,
        "TFLOP/s": work / seconds / 1e12,
        "GB/s": read / seconds / 1e9,
    }


def ceiling(dtype: Any, width: int) -> float:
    """TFLOP/s of a product of two square matrices."""
    matrix = random_arrays(jax.ShapeDtypeStruct((width, width), dtype))
    product = jax.jit(jnp.matmul)
    return 2 * width**3 / seconds_of(lambda: product(matrix, matrix)) / 1e12


def memory_rate(dtype: Any, gigabytes: float) -> float:
    """GB/s of reading one array."""
    array = random_arrays(jax.ShapeDtypeStruct((int(gigabytes * 1e9 / jnp.dtype(dtype).itemsize),), dtype))
    largest = jax.jit(jnp.max)
    return array.nbytes / seconds_of(lambda: largest(array)) / 1e9


def peak_gigabytes() -> float | None:
    """The peak memory of the device so far, if the device reports it."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return peak and peak / 1e9


def passes(shapes: ModelShapes, params: Any, features: Any, raw: Any) -> dict[str, Timing]:
    """The passes of a base answer, and an answer with given weights."""
    model, costs, length = shapes.model, shapes.costs, jax.tree.leaves(shapes.answer)[0].shape[-1]
    uniform = jnp.full(model.spec.shape, 1 / len(model.spec.experts))
    answer = random_arrays(shapes.answer)
    prepare = costs.prepare if costs is not None and costs.prepare is not None else lambda _, raw: raw
    conditioned = {}
    if hasattr(model, "condition"):
        conditioned["condition a reference"] = measure(model.condition, params, features, answer)
    return conditioned | {
        "encode": measure(lambda params, raw: model.encode(params, prepare(params, raw)), params, raw),
        "the router's own pass": measure(model.route, params, features),
        "base answer after encode": measure(lambda p, f: model.generate(p, f, None, length), params, features),
        "answer under given weights": measure(
            lambda p, f, r: model.generate(p, f, Routing(r), length), params, features, uniform
        ),
        "loss of a known answer": measure(
            lambda p, f, r, a: model.answer_loss(p, f, Routing(r), a), params, features, uniform, answer
        ),
    }


def queries_of(shapes: ModelShapes, features: Any, count: int) -> Query:
    """The same sample `count` times, with uniform weights."""
    spec = shapes.model.spec
    routing = jnp.full((count, *spec.shape), 1 / len(spec.experts))
    features = stack(features, count)
    return Query(features, routing, support_of(shapes.model, features, routing))


def stack(tree: Any, *axes: int) -> Any:
    """Copies along new leading axes."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*axes, *leaf.shape)), tree)


def descents(shapes: ModelShapes, params: Any, features: Any, max_vmap_size: int) -> Iterator[tuple[str, Timing]]:
    """Exact NGD with vmap size B = 1, 2, 4, ... until memory runs out or `max_vmap_size` is reached."""
    vmap_size = 1
    while vmap_size <= max_vmap_size:
        name = f"NGD, B x K = {vmap_size} x {K}"
        try:
            timing = descent(shapes, params, features, vmap_size, K)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            print(f"{name}: out of memory", flush=True)
            return
        yield name, timing
        vmap_size *= 2


def descent(shapes: ModelShapes, params: Any, features: Any, samples: int, k: int) -> Timing:
    """Exact NGD of samples that are computed together, each with k neighbors."""
    ngd = strategy("ngd", Preset.from_mapping({"neighborhood.k": k, "descent.steps": STEPS}))
    queries, answer = queries_of(shapes, features, samples), random_arrays(shapes.answer)
    neighbors = stack((condition(shapes.model, params, features, answer), answer), samples, k)
    references = References(None, *neighbors, queries.routing[:, None].repeat(k, axis=1), jnp.ones((samples, k)))
    run = partial(reroute_batch, ngd, shapes.model, vmap_size=samples)
    return measure(run, params, queries, references, sample_keys(0, jnp.arange(samples)), samples=samples)


def at_pairs(shapes: ModelShapes, params: Any, features: Any, pairs: int) -> Iterator[tuple[str, Timing]]:
    """NGD and the losses at `POINTS` routing points for this number of (sample, neighbor) pairs at a time."""
    k = min(PAIR_K, pairs)
    yield f"NGD, {pairs} pairs", descent(shapes, params, features, pairs // k, k)
    answer = random_arrays(shapes.answer)
    kept = stack((condition(shapes.model, params, features, answer), answer), pairs)
    points = jnp.zeros((POINTS, *shapes.model.spec.shape))

    def losses(params: Any, kept: Any, points: Any) -> Any:
        def at_point(point: Any) -> Any:
            return jax.vmap(lambda f, a: shapes.model.answer_loss(params, f, Routing(point, "shift"), a))(*kept)

        return jax.lax.map(at_point, points)

    yield f"losses at {POINTS} points, {pairs} references", measure(losses, params, kept, points, samples=pairs)


def atlas(shapes: ModelShapes, params: Any, features: Any) -> Timing:
    """Re-routing of one sample by the atlas."""
    queries, spec = queries_of(shapes, features, 1), shapes.model.spec
    points = jax.random.dirichlet(jax.random.key(0), jnp.ones(len(spec.experts)), (POINTS, spec.shape[0]))
    losses = jax.random.uniform(jax.random.key(1), (1, ATLAS_K, POINTS))
    neighbor_routing = queries.routing[:, None].repeat(ATLAS_K, axis=1)
    references = References(
        None, routing=neighbor_routing, weights=jnp.ones((1, ATLAS_K)), points=points, point_losses=losses
    )
    run = partial(reroute_batch, strategy("atlas", Preset.from_mapping({"atlas.k": ATLAS_K})), shapes.model)
    return measure(run, params, queries, references, sample_keys(0, jnp.arange(1)))


def ratios(timings: dict[str, Timing]) -> dict[str, float]:
    """The time of an answer with re-routing by the atlas as a multiple of a base answer."""
    took = {name: timing["milliseconds"] for name, timing in timings.items()}
    base = took["encode"] + took["base answer after encode"]
    routed = took["encode"] + took["atlas"] + took["answer under given weights"]
    return {
        "atlas from the router's weights / base": (routed + took["the router's own pass"]) / base,
        "atlas from the neighbors' weights / base": routed / base,
    }


def main(
    model: tyro.conf.Positional[str],
    max_vmap_size: int = 64,
    width: int = 8192,
    pairs: tuple[int, ...] = (),
    gigabytes: float = 1.0,
) -> None:
    """Measure, print and write the results.

    Args:
        model: a port with shapes, as `r2t2 fit` takes it.
        max_vmap_size: largest vmap size of NGD.
        width: size of the matrices whose product is the ceiling.
        pairs: numbers of (sample, neighbor) pairs that are computed together.
        gigabytes: size of the array whose reading gives the memory rate.
    """
    shapes, device = load_shapes(model), jax.devices()[0]
    assert shapes.costs is not None, f"{model} has no costs and therefore no raw sample"
    params, raw = random_arrays(shapes.params), random_arrays(shapes.costs.raw)
    features = random_arrays(shapes.features)
    top = ceiling(max(jax.tree.leaves(shapes.params), key=lambda leaf: leaf.size).dtype, width)
    timings = passes(shapes, params, features, raw)
    timings["atlas"] = atlas(shapes, params, features)
    for name, timing in descents(shapes, params, features, max_vmap_size):
        timings[name] = timing | {"peak_gigabytes": peak_gigabytes()}
        print(name, timings[name], flush=True)
    for count in pairs:
        for name, timing in at_pairs(shapes, params, features, count):
            timings[name] = timing | {"peak_gigabytes": peak_gigabytes()}
            print(name, timings[name], flush=True)
    rate = memory_rate(jnp.float32, gigabytes)
    for timing in timings.values():
        timing["of_ceiling"] = timing["TFLOP/s"] / top
        timing["of_memory_rate"] = timing["GB/s"] / rate
    report = {
        "command": f"python -m benchmarks.accelerator {model}",
        "device": device.device_kind,
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "runs": RUNS,
        "k": K,
        "steps": STEPS,
        "ceiling_TFLOP/s": top,
        "memory_GB/s": rate,
        "parameters_gigabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9,
        "programs": timings,
        **ratios(timings),
    }
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "_", f"{shapes.name} {device.device_kind}".lower())
    (RESULTS / f"accelerator_{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
