"""What MoVA-8B's features cost a sample under each policy `keep`, and what the policy saves.

    python -m benchmarks.mova_memory --out benchmarks/results/mova_memory.json

Bytes come from `jax.eval_shape` of the full model in bfloat16, FLOPs from `ports/mova/flops.py`; nothing is run, so the
numbers do not depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import jax

from ports.mova import flops
from ports.mova.config import MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract, fake_inputs
from ports.mova.port import ANSWER_TOKENS, QUESTION_TOKENS

WORDS = 16
STEPS, NEIGHBORS = 10, 5  # the paper's


def measure() -> dict[str, dict[str, float]]:
    """Megabytes and TFLOPs a sample, by policy."""
    found = {}
    for keep in ("outputs", "keys"):
        config = dataclasses.replace(MovaConfig.full_8b(), keep=keep)
        graph, params = abstract(config)
        inputs = jax.eval_shape(lambda config=config: fake_inputs(config, QUESTION_TOKENS, WORDS))
        features = jax.eval_shape(MovaModel(config, graph).encode, params, inputs)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(features))
        evaluation = flops.forward(config, QUESTION_TOKENS, ANSWER_TOKENS, QUESTION_TOKENS // 2)
        found[keep] = {
            "megabytes_a_sample": round(size / 1e6, 1),
            "gigabytes_for_5000_references": round(5000 * size / 1e9, 1),
            "tflop_encode": round(flops.encode(config, WORDS, QUESTION_TOKENS // 2) / 1e12, 3),
            "tflop_evaluation": round(evaluation / 1e12, 3),
            "tflop_ngd_forward": round(STEPS * NEIGHBORS * evaluation / 1e12, 1),
        }
    return found


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
