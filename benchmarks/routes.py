"""The cost of recording routes next to answering: CPU seconds of both, in alternation in one process.

    python -m benchmarks.routes --out benchmarks/results/routes.json

Both prepare the same questions, answer them in batches and decode the answers; recording also keeps the routes of every
token and writes them as tables. The first round of each compiles and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.setup import open_question_sets
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.plugins import load
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routes.recording import routes_table
from r2t2_jax.runs.batch_files import write_table
from r2t2_jax.runs.fingerprint import versions

MODELS = ("pocket:sparse", "pocket:narrow", "pocket:balanced")
BATCH = 50


def answer(port: Port, samples: list[Sample]) -> list[str]:
    """The answers of a batch, without recording."""
    inputs = port.processor.prepare(port.params, samples)
    features, _ = encode_batch(port.params, inputs, model=port.model)
    return port.processor.decode(np.asarray(generate_batch(port, features, None)))


def record(port: Port, samples: list[Sample], path: Path) -> list[str]:
    """The answers of a batch, with its routes recorded in a file."""
    rows = record_samples(port, samples, "pocket", "all", False, len(samples))
    write_table(path, routes_table(rows))
    return [row.prediction for row in rows]


def measured(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of some work, and the CPU seconds of this process for it."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def compare(model: str, questions: int, rounds: int) -> dict[str, Any]:
    """Medians over rounds of the CPU seconds for all questions, and their ratio.

    Raises:
        AssertionError: recording changed an answer.
    """
    port = load(model)
    samples, _ = open_question_sets(("pocket",), "test", questions, 0, "")
    batches = [list(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]
    seconds: dict[str, list[float]] = {"answer": [], "record": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.parquet"
        for number in range(rounds + 1):
            answers, plain = measured(lambda: [answer(port, batch) for batch in batches])
            recorded, whole = measured(lambda: [record(port, batch, path) for batch in batches])
            assert answers == recorded, "recording changed an answer"
            if number:
                seconds["answer"].append(plain)
                seconds["record"].append(whole)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    ratios = np.array(seconds["record"]) / np.array(seconds["answer"])
    return {
        "questions": questions,
        "rounds": rounds,
        "answer_ms": round(1000 * medians["answer"] / questions, 3),
        "record_ms": round(1000 * medians["record"] / questions, 3),
        "ratio": round(medians["record"] / medians["answer"], 3),
        "ratio_quartiles": [round(float(bound), 3) for bound in np.quantile(ratios, [0.25, 0.75])],
    }


def main() -> None:
    """Measure every model and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/routes.json"))
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    models = {model: compare(model, options.questions, options.rounds) for model in MODELS}
    facts = {"unit": "CPU milliseconds per question", "cores": os.cpu_count(), "device": jax.default_backend()}
    content = {"versions": versions(), **facts, "models": models}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for model, numbers in models.items():
        print(f"{model}: {numbers['answer_ms']} and {numbers['record_ms']} ms, ratio {numbers['ratio']}")


if __name__ == "__main__":
    main()
