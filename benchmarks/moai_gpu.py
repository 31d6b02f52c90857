"""MoAI on an accelerator: prefill, decoding and one step of NGD over five neighbours, with drawn weights.

    python -m benchmarks.moai_gpu --size 7b

Milliseconds (median of several runs after one that compiles), peak memory, and the share of the card's bfloat16 peak
that the matrix products of the model make up (MFU; recomputation is not counted). `--size tiny`
tries the script itself on any machine. Writes benchmarks/results/moai_SIZE_DEVICE.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ports.moai import flops
from ports.moai.config import MoAIConfig
from ports.moai.data import MoAIAnswer
from ports.moai.port import MoAIModel
from r2t2_jax.routing import Routing

SIZES = {"7b": MoAIConfig.full_7b, "tiny": MoAIConfig.tiny}
PEAK = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}  # bfloat16, dense
TEXT, VERBALISATION, ANSWER, NEW_TOKENS, NEIGHBORS, RUNS = 64, 275, 8, 16, 5, 5
RESULTS = Path(__file__).parent / "results"


def median_seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Of `RUNS` runs, each waited for, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def draw(config: MoAIConfig) -> Any:
    """Weights drawn on the device, leaf by leaf: small enough that nothing overflows."""
    _, shapes = config.abstract()
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(
        structure,
        [0.02 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)],
    )


def measure(config: MoAIConfig, params: Any) -> dict[str, Any]:
    """Seconds and FLOPs of each program."""
    model = MoAIModel(config, config.abstract()[0])
    inputs = config.fake_inputs(TEXT, VERBALISATION)
    answer = MoAIAnswer(jnp.full(ANSWER, 5), jnp.ones(ANSWER, bool))
    values = jnp.full(model.spec.shape, 1 / 3)
    encode = jax.jit(model.encode)
    features = encode(params, inputs)
    near = jax.tree.map(lambda leaf: jnp.stack([leaf] * NEIGHBORS), (features, answer))

    @jax.jit
    def prefill(params: Any, features: Any, values: Any) -> Any:
        net = nnx.merge(model.graph, params)
        return net.logits(net.read(features, Routing(values))[0])

    @jax.jit
    def step(params: Any, near: Any, values: Any) -> Any:
        def loss(values: Any) -> Any:
            return jax.vmap(lambda f, a: model.answer_loss(params, f, Routing(values), a))(*near).mean()

        return values - 1e-2 * jax.grad(loss)(values)

    generate = jax.jit(lambda p, f, r: model.generate(p, f, Routing(r), NEW_TOKENS))
    rows = config.image_tokens + TEXT
    encoding = flops.encode_flops(config, TEXT, VERBALISATION)
    reading = flops.forward_flops(config, TEXT, 1)
    timed = {
        "encode": (median_seconds(encode, params, inputs), encoding),
        "prefill under a routing": (median_seconds(prefill, params, features, values), reading),
        f"answer of {NEW_TOKENS} tokens": (
            median_seconds(generate, params, features, values),
            reading + NEW_TOKENS * flops.decode_flops(config, rows + NEW_TOKENS),
        ),
        f"NGD step, {NEIGHBORS} neighbours": (
            median_seconds(step, params, near, values),
            2 * NEIGHBORS * flops.forward_flops(config, TEXT, ANSWER),
        ),
    }
    return {name: {"milliseconds": 1e3 * seconds, "TFLOP": done / 1e12} for name, (seconds, done) in timed.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="7b")
    size = parser.parse_args().size
    config = dataclasses.replace(SIZES[size](), dtype="bfloat16")
    device = jax.devices()[0]
    found = measure(config, jax.jit(lambda: draw(config))())
    peak = PEAK.get(device.device_kind)
    for row in found.values():
        row["MFU"] = peak and row["TFLOP"] * 1e12 / (row["milliseconds"] / 1e3) / peak
    memory = (device.memory_stats() or {}).get("peak_bytes_in_use")
    described = {
        "size": size,
        "device": device.device_kind,
        "jax": jax.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "runs": RUNS,
        "tokens": {"text": TEXT, "verbalisation": VERBALISATION, "answer": ANSWER},
        "peak GB": memory and memory / 1e9,
        "programs": found,
    }
    RESULTS.mkdir(exist_ok=True)
    name = device.device_kind.lower().replace(" ", "_")
    (RESULTS / f"moai_{size}_{name}.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(described, indent=1))


if __name__ == "__main__":
    main()
