"""Re-routing at a model's real size on an accelerator, with drawn weights: milliseconds a case, and the card's share.

    python -m benchmarks.accelerator moai:7b,dtype=bfloat16      # an 80 GB accelerator
    python -m benchmarks.accelerator mova:8b
    python -m benchmarks.accelerator moai:tiny --most 2          # does the script run? on any machine

Any port that tells its shapes will do (`r2t2 fit` and `r2t2 cost` read the same). Measured are the passes of a base
answer, exact NGD with so many cases abreast, twice as many and so on until memory runs out, and the loss atlas. TFLOP
are counted over the traced programs (products and convolutions; what `remat` computes again counts), the ceiling is
what the same device reaches on one large product in the parameters' type. Weights and inputs are drawn, so nothing is
said of answers. Writes `benchmarks/results/accelerator_MODEL_DEVICE.json`.

Axis letters: B samples, K neighbours, G points of the atlas, L routed layers, E experts.
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

from r2t2_jax.contract import ModelShapes, Query, References
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load_shapes
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing

RUNS = 5
K, STEPS = 5, 10
ATLAS_K, POINTS = 20, 16
RESULTS = Path(__file__).parent / "results"
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
Timed = dict[str, float]


def draw(shapes: Any, seed: int = 0) -> Any:
    """Arrays of the given shapes, each drawn on the device: small numbers, tokens all alike, masks all true."""

    @partial(jax.jit, static_argnames=("shape", "dtype"))
    def leaf(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        if jnp.issubdtype(dtype, jnp.floating):
            return (0.02 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype)
        return jnp.ones(shape, dtype)

    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [leaf(key, one.shape, jnp.dtype(one.dtype)) for key, one in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def seconds_of(run: Callable[[], Any]) -> float:
    """The median of `RUNS` runs, each waited for, after one that compiles."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def timed(function: Callable[..., Any], *arguments: Any, cases: int = 1) -> Timed:
    """Milliseconds and TFLOP a case."""
    work = count_flops(jax.make_jaxpr(function)(*arguments))
    program = jax.jit(function)
    seconds = seconds_of(lambda: program(*arguments))
    return {"milliseconds": 1e3 * seconds / cases, "TFLOP": work / cases / 1e12, "TFLOP/s": work / seconds / 1e12}


def ceiling(dtype: Any, width: int) -> float:
    """TFLOP/s of the product of two square matrices."""
    matrix = draw(jax.ShapeDtypeStruct((width, width), dtype))
    product = jax.jit(jnp.matmul)
    return 2 * width**3 / seconds_of(lambda: product(matrix, matrix)) / 1e12


def peak_gigabytes() -> float | None:
    """The most that the device has held so far, where it tells."""
    told = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return told and told / 1e9


def passes(shapes: ModelShapes, params: Any, features: Any, raw: Any) -> dict[str, Timed]:
    """What a base answer is made of, and an answer under given weights."""
    model, costs, length = shapes.model, shapes.costs, jax.tree.leaves(shapes.answer)[0].shape[-1]
    uniform = jnp.full(model.spec.shape, 1 / len(model.spec.experts))
    prepare = costs.prepare if costs is not None and costs.prepare is not None else lambda _, raw: raw
    return {
        "encode": timed(lambda params, raw: model.encode(params, prepare(params, raw)), params, raw),
        "the router's own pass": timed(model.route, params, features),
        "base answer after encode": timed(lambda p, f: model.generate(p, f, None, length), params, features),
        "answer under given weights": timed(
            lambda p, f, r: model.generate(p, f, Routing(r), length), params, features, uniform
        ),
        "loss of a known answer": timed(
            lambda p, f, r, a: model.answer_loss(p, f, Routing(r), a), params, features, uniform, draw(shapes.answer)
        ),
    }


def queries_of(shapes: ModelShapes, features: Any, count: int) -> Query:
    """The same sample `count` times, with equal weights."""
    spec = shapes.model.spec
    routing = jnp.full((count, *spec.shape), 1 / len(spec.experts))
    return Query(stack(features, count), routing, jnp.ones(routing.shape, bool))


def stack(tree: Any, *axes: int) -> Any:
    """Copies along new leading axes."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*axes, *leaf.shape)), tree)


def descents(shapes: ModelShapes, params: Any, features: Any, most: int) -> Iterator[tuple[str, Timed]]:
    """Exact NGD of B cases abreast, B = 1, 2, 4, ... until memory runs out or `most` is reached."""
    ngd, vmap_size = strategy("ngd", Preset(k=K, steps=STEPS)), 1
    while vmap_size <= most:
        queries = queries_of(shapes, features, vmap_size)
        near = stack((features, draw(shapes.answer)), vmap_size, K)
        references = References(None, *near, queries.routing[:, None].repeat(K, axis=1), jnp.ones((vmap_size, K)))
        run = partial(reroute_batch, ngd, shapes.model, vmap_size=vmap_size)
        name = f"NGD, B x K = {vmap_size} x {K}"
        try:
            found = timed(run, params, queries, references, sample_keys(0, jnp.arange(vmap_size)), cases=vmap_size)
        except jax.errors.JaxRuntimeError as error:
            if OUT_OF_MEMORY not in str(error):
                raise
            print(f"{name}: out of memory", flush=True)
            return
        yield name, found
        vmap_size *= 2


def atlas(shapes: ModelShapes, params: Any, features: Any) -> Timed:
    """Re-routing one case by the table."""
    queries, spec = queries_of(shapes, features, 1), shapes.model.spec
    points = jax.random.dirichlet(jax.random.key(0), jnp.ones(len(spec.experts)), (POINTS, spec.shape[0]))
    losses = jax.random.uniform(jax.random.key(1), (1, ATLAS_K, POINTS))
    near = queries.routing[:, None].repeat(ATLAS_K, axis=1)
    table = References(None, routing=near, weights=jnp.ones((1, ATLAS_K)), points=points, point_losses=losses)
    run = partial(reroute_batch, strategy("atlas", Preset(atlas_k=ATLAS_K)), shapes.model)
    return timed(run, params, queries, table, sample_keys(0, jnp.arange(1)))


def ratios(found: dict[str, Timed]) -> dict[str, float]:
    """What re-routing by the atlas makes of the time of a base answer."""
    took = {name: one["milliseconds"] for name, one in found.items()}
    base = took["encode"] + took["base answer after encode"]
    routed = took["encode"] + took["atlas"] + took["answer under given weights"]
    return {
        "atlas from the router's weights / base": (routed + took["the router's own pass"]) / base,
        "atlas from the neighbours' weights / base": routed / base,
    }


def main(model: tyro.conf.Positional[str], most: int = 64, width: int = 8192) -> None:
    """Measure, print and write.

    Args:
        model: a port with shapes, as `r2t2 fit` takes it.
        most: cases abreast at most.
        width: of the matrices whose product is the ceiling.
    """
    shapes, device = load_shapes(model), jax.devices()[0]
    assert shapes.costs is not None, f"{model} tells no costs, and with them no raw sample"
    params, raw = draw(shapes.params), draw(shapes.costs.raw)
    features = draw(shapes.features)
    top = ceiling(max(jax.tree.leaves(shapes.params), key=lambda leaf: leaf.size).dtype, width)
    found = passes(shapes, params, features, raw)
    found["atlas"] = atlas(shapes, params, features)
    for name, one in descents(shapes, params, features, most):
        found[name] = one | {"peak_gigabytes": peak_gigabytes()}
        print(name, found[name], flush=True)
    for one in found.values():
        one["of_ceiling"] = one["TFLOP/s"] / top
    report = {
        "command": f"python -m benchmarks.accelerator {model}",
        "device": device.device_kind,
        "date": time.strftime("%Y-%m-%d"),
        "jax": jax.__version__,
        "runs": RUNS,
        "k": K,
        "steps": STEPS,
        "ceiling_TFLOP/s": top,
        "parameters_gigabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9,
        "programs": found,
        **ratios(found),
    }
    RESULTS.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "_", f"{shapes.name} {device.device_kind}".lower())
    (RESULTS / f"accelerator_{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
