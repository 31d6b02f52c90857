"""Choose the preset `pocket` on validation questions: `python -m benchmarks.tune_pocket`.

Update spaces, optimisers and learning rates are tried first, then neighbours and steps, on both gates. Of everything
within a point of the best mean accuracy the cheapest is taken: half the evaluations are worth more than half a point.
It goes to `ports/pocket/weights/presets.json`, the evidence to `benchmarks/results/tune_pocket.json`. The test split is
never read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from ports.pocket.params import FOLDER, GATES
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.collect import collect_bank
from r2t2_jax.evaluation.evaluate import evaluate
from r2t2_jax.evaluation.questions import Questions, encode_questions
from r2t2_jax.loading import load
from r2t2_jax.metrics import get_metric
from r2t2_jax.presets import Preset
from r2t2_jax.strategies import Strategy, strategy

RESULTS = Path(__file__).parent / "results" / "tune_pocket.json"
MOVES = [
    {"space": space, "optimizer": optimizer, "learning_rate": rate, "final_learning_rate": round(rate / 30, 4)}
    for space, optimizer, rate in (
        ("free", "sgd", 0.1),
        ("simplex", "sgd", 0.1),
        ("simplex", "sgd", 0.3),
        ("simplex", "adam", 0.1),
        ("simplex", "adam", 0.3),
        ("logit", "adam", 1.0),
        ("shift", "adam", 1.0),
    )
]
SIZES = [{"k": 5, "steps": 10}, {"k": 10, "steps": 5}, {"k": 5, "steps": 5}, {"k": 20, "steps": 5}]
MODES = (5, 20, 50)
SLACK = 0.01  # of accuracy, which a cheaper setting may lose against the best
ROUNDED = 4

Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """One gate with its bank and the validation questions, encoded once."""

    port: Port
    bank: ReferenceBank
    questions: Questions


def open_benches(samples: int) -> dict[str, Bench]:
    """Both gates."""
    references, asked = load_dataset("pocket", "reference"), load_dataset("pocket", "validation", samples)
    benches = {}
    for gate in GATES:
        port = load(f"pocket:{gate}")
        bank = collect_bank(port, references, get_metric("exact_match"))
        benches[gate] = Bench(port, bank, encode_questions(port, asked))
    return benches


def score(benches: Mapping[str, Bench], chosen: Mapping[str, Strategy]) -> dict[str, Row]:
    """Accuracy by gate, their mean, and evaluations of each strategy."""
    rows: dict[str, Row] = {name: {"accuracy": {}} for name in chosen}
    for gate, bench in benches.items():
        for outcome in evaluate(bench.port, bench.bank, bench.questions, chosen, get_metric("exact_match")):
            rows[outcome.name]["accuracy"][gate] = round(float(outcome.right.mean()), ROUNDED)
            rows[outcome.name]["evaluations"] = outcome.evaluations
    for row in rows.values():
        row["mean"] = round(sum(row["accuracy"].values()) / len(benches), ROUNDED)
    return rows


def sweep(benches: Mapping[str, Bench], tried: Sequence[Mapping[str, Any]], name: str = "ngd") -> list[Row]:
    """Score one strategy under each of the settings."""
    presets = {json.dumps(settings): strategy(name, Preset.from_mapping(settings)) for settings in tried}
    rows = score(benches, presets)
    found = [{"settings": dict(settings), **rows[json.dumps(settings)]} for settings in tried]
    for row in found:
        print(json.dumps(row), flush=True)
    return found


def cheapest_good(rows: Sequence[Row]) -> Row:
    """The cheapest within `SLACK` of the best; the better of two that cost the same."""
    best = max(row["mean"] for row in rows)
    return min((row for row in rows if row["mean"] >= best - SLACK), key=lambda row: (row["evaluations"], -row["mean"]))


def main(samples: int = 400) -> None:
    """Tune on this many validation questions and write preset and evidence."""
    benches = open_benches(samples)
    moves = sweep(benches, [{"k": 10, "steps": 10, **move} for move in MOVES])
    best = max(moves, key=lambda row: row["mean"])["settings"]
    sizes = sweep(benches, [{**best, **size} for size in SIZES])
    chosen = cheapest_good(moves + sizes)["settings"]
    modes = sweep(benches, [{**chosen, "mode_k": k} for k in MODES], "mode_finding")
    preset = max(modes, key=lambda row: row["mean"])["settings"]
    names = ("base", "uniform", "kernel_regression", "random_neighbors", "ngd", "task_routing", "oracle")
    context = score(benches, {name: strategy(name, Preset.from_mapping(preset)) for name in names})
    (FOLDER / "presets.json").write_text(json.dumps({"pocket": preset}, indent=1) + "\n", encoding="utf-8")
    RESULTS.parent.mkdir(exist_ok=True)
    evidence = {"n": samples, "preset": preset, "context": context, "moves": moves, "sizes": sizes, "modes": modes}
    RESULTS.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(context, indent=1))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
