"""MoVA at full size with drawn weights: one answer and one step of NGD timed, and the peak of the device's memory.

    python -m benchmarks.mova_gpu --out benchmarks/results/mova_gpu.json     # an 80 GB accelerator
    python -m benchmarks.mova_gpu --size tiny                                # does the script run?

Weights are drawn on the device, in the config's dtype; towers see noise. What is measured: every tower, `encode`, an
answer of 8 tokens, and one step of neighbourhood gradient descent with one and with five neighbours. The first call,
which compiles, is timed apart; of the others the median counts.
"""

from __future__ import annotations

import argparse
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

from ports.mova.config import EXPERTS, MovaConfig
from ports.mova.modeling import MovaAnswer, MovaInputs, Views, abstract
from ports.mova.port import ANSWER_TOKENS, QUESTION_TOKENS, SIZES, MovaModel
from ports.mova.processing import ask_expert
from r2t2_jax.contract import Query, References
from r2t2_jax.presets import Preset
from r2t2_jax.rerouting import reroute_sample
from r2t2_jax.strategies import strategy

REPEATS = 5


def draw_params(config: MovaConfig) -> Any:
    """Every parameter drawn on the device, one program a shape."""

    @partial(jax.jit, static_argnames=("shape", "dtype"))
    def draw(key: jax.Array, shape: tuple[int, ...], dtype: str) -> jax.Array:
        return (0.02 * jax.random.normal(key, shape, jnp.bfloat16)).astype(dtype)

    leaves, structure = jax.tree.flatten(abstract(config)[1])
    keys = jax.random.split(jax.random.key(0), len(leaves))
    filled = [draw(key, leaf.shape, str(leaf.dtype)) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, filled)


def seconds(function: Callable[[], Any]) -> dict[str, float]:
    """The first call, and the median of the ones after it."""

    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(function())
        return time.perf_counter() - start

    first = once()
    return {"first": round(first, 3), "seconds": round(statistics.median(once() for _ in range(REPEATS)), 4)}


def peak_gigabytes() -> float | None:
    """The most that the device ever held, where it tells."""
    statistic = jax.devices()[0].memory_stats() or {}
    return round(statistic["peak_bytes_in_use"] / 1e9, 2) if "peak_bytes_in_use" in statistic else None


def views_of(config: MovaConfig) -> Views:
    """Noise of the right shapes."""
    tile, high = config.clip.image_size, config.high_size
    pixels = 3 * config.pix2struct.patch_size**2
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    patches = jnp.concatenate([jnp.ones((config.max_patches, 2)), noise(config.max_patches, pixels)], axis=1)
    return Views(noise(tile, tile, 3), noise(tile, tile, 3), noise(high, high, 3), patches)


def measure_towers(model: MovaModel, params: Any) -> dict[str, Any]:
    """Every expert's tower on one image."""
    views = views_of(model.config)
    return {name: seconds(partial(ask_expert, params, views, model=model, expert=name)) for name in EXPERTS}


def measure_steps(model: MovaModel, params: Any, inputs: MovaInputs) -> dict[str, Any]:
    """Encoding, answering, and a step of descent with one and with five neighbours."""
    encode = jax.jit(model.encode)
    features = encode(params, inputs)
    generate = jax.jit(lambda params, features: model.generate(params, features, None, ANSWER_TOKENS))
    found: dict[str, Any] = {
        "encode": seconds(lambda: encode(params, inputs)),
        "answer_8_tokens": seconds(lambda: generate(params, features)),
    }
    r = jnp.full(model.spec.shape, 1 / len(EXPERTS))
    answer = MovaAnswer(jnp.ones(ANSWER_TOKENS, jnp.int32), jnp.ones(ANSWER_TOKENS, bool))
    for neighbors in (1, 5):
        ngd = strategy("ngd", Preset(k=neighbors, steps=1))
        near = jax.tree.map(lambda leaf, k=neighbors: jnp.stack([leaf] * k), (features, answer, r))
        query = Query(features, r, jnp.ones(r.shape, bool))
        references = References(r[None], *near, jnp.ones(neighbors))
        step = jax.jit(partial(reroute_sample, ngd, model))
        key = jax.random.key(0)
        found[f"ngd_step_k{neighbors}"] = seconds(lambda s=step, q=query, n=references, k=key: s(params, q, n, k).path)
        found[f"ngd_step_k{neighbors}"]["peak_gigabytes"] = peak_gigabytes()
    return found


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="8b")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    config = SIZES[given.size]()
    model, params = MovaModel(config, abstract(config)[0]), draw_params(config)
    inputs = config.fake_inputs(QUESTION_TOKENS)
    found = {
        "size": given.size,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "dtype": config.dtype,
        "repeats": REPEATS,
        "weights_gigabytes": round(sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9, 2),
        "towers": measure_towers(model, params),
        **measure_steps(model, params, inputs),
        "peak_gigabytes": peak_gigabytes(),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
