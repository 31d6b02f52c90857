"""Memory and FLOPs of MoVA-8B's features per sample under each policy `keep`.

    python -m benchmarks.mova_memory --out benchmarks/results/mova_memory.json

Bytes come from `jax.eval_shape` of the full model in bfloat16, FLOPs are counted on the traced programs; nothing is
run, so the numbers do not depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from ports.mova.config import MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract, fake_inputs
from ports.mova.port import QUESTION_TOKENS, shapes
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.prediction import floats
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import tree_bytes

WORDS = 16
STEPS, NEIGHBORS = 10, 5  # the paper's


def measure() -> dict[str, dict[str, float]]:
    """Megabytes and TFLOPs per sample, by policy."""
    answer = shapes("8b", None, None).answer
    results = {}
    for keep in ("outputs", "keys"):
        config = dataclasses.replace(MovaConfig.full_8b(), keep=keep)
        graph, params = abstract(config)
        model = MovaModel(config, graph)
        inputs = jax.eval_shape(lambda config=config: fake_inputs(config, QUESTION_TOKENS, WORDS))
        encode, features = jax.make_jaxpr(model.encode, return_shape=True)(params, inputs)

        def loss(params: Any, features: Any, r: Any, answer: Any, model: MovaModel = model) -> Any:
            return model.answer_loss(params, features, Routing(r), answer)

        evaluation = count_flops(jax.make_jaxpr(loss)(params, features, floats(*config.spec.shape), answer))
        size = tree_bytes(features)
        results[keep] = {
            "megabytes_a_sample": round(size / 1e6, 1),
            "gigabytes_for_5000_references": round(5000 * size / 1e9, 1),
            "tflop_encode": round(count_flops(encode) / 1e12, 3),
            "tflop_evaluation": round(evaluation / 1e12, 3),
            "tflop_ngd_forward": round(STEPS * NEIGHBORS * evaluation / 1e12, 1),
        }
    return results


def main() -> None:
    """Print the table as JSON, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    out = parser.parse_args().out
    text = json.dumps(measure(), indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
