"""The cost of recording routes next to answering: CPU seconds of both, in alternation in one process.

    python -m benchmarks.routes   # benchmarks/results/routes.json and the table of docs/routes.md

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

from benchmarks.pages import write_results
from r2t2_jax.contract import Port, Sample
from r2t2_jax.evaluation.setup import open_question_sets
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.plugins import load
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routes.recording import routes_table
from r2t2_jax.runs.batch_files import write_table
from r2t2_jax.runs.fingerprint import versions

RESULTS = Path(__file__).parent / "results" / "routes.json"
PAGE = Path(__file__).parents[1] / "docs" / "routes.md"
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
    """Medians over rounds of the CPU seconds for all questions, and of their ratio in a round.

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
            if number % 2:  # each is the first in half of the rounds
                recorded, whole = measured(lambda: [record(port, batch, path) for batch in batches])
            answers, plain = measured(lambda: [answer(port, batch) for batch in batches])
            if not number % 2:
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
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_quartiles": [round(float(bound), 3) for bound in np.quantile(ratios, [0.25, 0.75])],
    }


def page_table(recorded: dict[str, Any]) -> str:
    """The table of docs/routes.md, and how it was measured."""
    models = recorded["models"]
    lines = ["| model | answering | recording | ratio | quartiles of the ratio |", "|---|---|---|---|---|"]
    for name, numbers in models.items():
        low, high = (f"{bound:.2f}" for bound in numbers["ratio_quartiles"])
        times = f"{numbers['answer_ms']:.1f} | {numbers['record_ms']:.1f}"
        lines.append(f"| `{name}` | {times} | {numbers['ratio']:.2f} | {low} to {high} |")
    first = next(iter(models.values()))
    load = "" if recorded["load_before"] < 0.5 else f" under other load ({recorded['load_before']:.1f} processes)"
    lines.append("")
    lines.append(
        f"CPU milliseconds per question, medians of {first['rounds']} rounds of {first['questions']} questions, files "
        f"included; {recorded['cores']} CPU cores{load}, {recorded['date']}."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every model, and write the numbers and the table of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    models = {model: compare(model, options.questions, options.rounds) for model in MODELS}
    facts = {"unit": "CPU milliseconds per question", "cores": os.cpu_count(), "device": jax.default_backend()}
    facts |= {"date": time.strftime("%Y-%m-%d"), "load_before": round(load, 2)}
    content = {"versions": versions(), **facts, "models": models}
    options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_results(options.page, page_table(content))
    for model, numbers in models.items():
        print(f"{model}: {numbers['answer_ms']} and {numbers['record_ms']} ms, ratio {numbers['ratio']}")


if __name__ == "__main__":
    main()
