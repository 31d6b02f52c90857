"""MoAI-7B compiles on a laptop: the answer loss's gradient with respect to r at full shapes, no weights in memory.

    python -m benchmarks.moai_compile

Lowered and compiled for this machine's CPU from shapes only; writes benchmarks/results/moai_compile.json with the
seconds, the size of the program, and XLA's own figures for memory. In float32: a CPU has no products of 16-bit numbers,
and XLA would hold a converted copy of all weights.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ports.moai.batch import MoAIAnswer
from ports.moai.config import MoAIConfig
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract, fake_inputs
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.routing import Routing

TEXT, VERBALIZATION, ANSWER = 64, 275, 8
OUT = Path(__file__).parent / "results" / "moai_compile.json"


def compile_once(function: Any, *arguments: Any) -> dict[str, Any]:
    """CPU seconds to trace, lower and compile (wall time depends on the machine's other work), sizes, XLA's memory."""
    start = time.process_time()
    lowered = jax.jit(function).lower(*arguments)
    lowering = time.process_time() - start
    text = lowered.as_text()
    start = time.process_time()
    compiled = lowered.compile()
    compiling = time.process_time() - start
    memory = compiled.memory_analysis()
    return {
        "CPU seconds to lower": round(lowering, 1),
        "CPU seconds to compile": round(compiling, 1),
        "lines of StableHLO": text.count("\n"),
        "MB of StableHLO": round(len(text) / 1e6, 2),
        "GB of arguments": round(memory.argument_size_in_bytes / 1e9, 2),
        "GB of temporaries": round(memory.temp_size_in_bytes / 1e9, 2),
    }


def main() -> None:
    """Compile the gradient of one loss."""
    config = MoAIConfig.full_7b()
    graph, params = abstract(config)
    model = MoAIModel(config, graph)
    features = jax.eval_shape(model.encode, params, fake_inputs(config, TEXT, VERBALIZATION))
    answer = MoAIAnswer(jax.ShapeDtypeStruct((ANSWER,), jnp.int32), jax.ShapeDtypeStruct((ANSWER,), bool))
    values = jax.ShapeDtypeStruct(model.spec.shape, jnp.float32)

    def loss(params: Any, features: Any, values: Any, answer: Any) -> Any:
        return model.answer_loss(params, features, Routing(values), answer)

    def gradient(params: Any, features: Any, values: Any, answer: Any) -> Any:
        return jax.value_and_grad(loss, 2)(params, features, values, answer)

    results = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores, jax {jax.__version__}",
        "date": time.strftime("%Y-%m-%d"),
        "dtype": config.dtype,
        "remat": config.remat,
        "tokens": {"image": config.image_tokens, "text": TEXT, "answer": ANSWER},
        "TFLOP of one loss": round(count_flops(jax.make_jaxpr(loss)(params, features, values, answer)) / 1e12, 2),
        "gradient of one loss": compile_once(gradient, params, features, values, answer),
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
