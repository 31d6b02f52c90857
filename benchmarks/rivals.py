"""Compares re-routing with other test-time methods: `python -m benchmarks.rivals`.

Every rival runs on both gates of the pocket model with the same test questions, the same references and the preset
`pocket`. The numbers go to `benchmarks/results/rivals.json` and, as a table, to `docs/rivals.md`. `--only cotta lame`
computes these rows, next to `base` and `ngd`, and keeps the recorded others; such a row has its own date.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.demo_results import results_table
from benchmarks.pages import write_results
from ports.pocket.params import GATES
from r2t2_jax.contract import Port
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank, with_shipped_atlas
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.records import BatchResult
from r2t2_jax.evaluation.references import same_experts
from r2t2_jax.evaluation.statistics import compare, summarize
from r2t2_jax.methods import BASELINES, Method, baseline, find_preset, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.rivals.table import RIVALS
from r2t2_jax.rivals.warmup import Warmup

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rivals.json"
PAGE = ROOT / "docs" / "rivals.md"
OURS = ("base", "ngd", "atlas")
MOVED = 1e-3  # total change of a sample's weights from which they count as moved
FAST = 1e-3  # learning rate at which the warm-up changes this small model; the source's rate changes a weight by 4e-6


def methods(port: Port, only: Sequence[str] = ()) -> list[dict[str, Method]]:
    """Groups of methods: all strategies, then each baseline separately, because a model may not support it.

    Args:
        port: the model.
        only: names of those to run besides `base` and `ngd`; all by default.
    """
    preset = find_preset("pocket", port.presets)
    baselines: dict[str, Method] = {name: baseline(name, preset) for name in BASELINES}
    baselines["warmup_fast"] = Warmup(FAST)
    strategies: dict[str, Method] = {name: strategy(name, preset) for name in (*OURS, *RIVALS)}
    if only:
        strategies = {name: method for name, method in strategies.items() if name in ("base", "ngd", *only)}
        baselines = {name: method for name, method in baselines.items() if name in only}
    return [strategies, *({name: method} for name, method in baselines.items())]


def compare_on(port: Port, n: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of one gate, and the errors of methods that could not run."""
    metric = get_metric("exact_match")
    tests, references = load_dataset("pocket", "test", n), load_dataset("pocket", "reference")
    bank = with_shipped_atlas(collect_bank(port, references, metric, keep_wrong=True), port)
    questions = encode_questions(port, tests)
    results: dict[str, BatchResult] = {}
    refused: dict[str, str] = {}
    for group in methods(port, only):
        try:
            evaluated = evaluate(port, bank, questions, group, metric)
        except R2T2Error as error:
            refused |= dict.fromkeys(group, str(error))
        else:
            results |= dict(zip(group, evaluated, strict=True))
    right = {name: result.right for name, result in results.items()}
    evaluations = {name: result.evaluations for name, result in results.items()}
    summary = summarize(right, evaluations, [sample.category for sample in tests])
    experts = {record["id"]: record["experts"] for record in bank.records}
    for name, row in summary["strategies"].items():
        against, result = compare(right["ngd"], right[name]), results[name]
        row["against_ngd"] = [round(bound, 6) for bound in (against.gain, against.low, against.high)]
        row["moved"] = round(float((np.abs(result.path[:, -1] - result.path[:, 0]).sum(axis=(1, 2)) > MOVED).mean()), 6)
        if result.neighbors.shape[1]:
            neighbors = [[bank.records[j]["id"] for j in nearest] for nearest in result.neighbors.tolist()]
            row["neighbors_with_same_experts"] = round(float(same_experts(experts, tests, neighbors).mean()), 6)
            row["mean_kernel_weight"] = round(float(result.kernel_weights.mean()), 6)
    return summary | {"references": {"asked": len(bank), "kept": int(bank.right.sum())}, "refused": refused}


def page_table(recorded: Mapping[str, Any]) -> str:
    """The table with command, n, machine and date."""
    n = next(iter(recorded["gates"].values()))["n"]
    where = f"`{recorded['command']}`, n = {n:,} test questions per gate, {recorded['machine']}, {recorded['date']}."
    models = {f"pocket:{gate}": numbers for gate, numbers in recorded["gates"].items()}
    rows = next(iter(recorded["gates"].values()))["strategies"]
    for name, row in rows.items():
        if "date" in row:
            where += f" Row `{name}`: {row['date']}."
    return f"{where}\n\n{results_table({'models': models})}\n"


def with_rows(recorded: dict[str, Any], gates: Mapping[str, Any], only: Sequence[str], date: str) -> dict[str, Any]:
    """The recorded numbers with new rows, in the order of `methods`."""
    order = [*OURS, *RIVALS, *BASELINES, "warmup_fast"]
    for gate, numbers in gates.items():
        rows = recorded["gates"][gate]["strategies"]
        rows |= {name: numbers["strategies"][name] | {"date": date} for name in only}
        recorded["gates"][gate]["strategies"] = {name: rows[name] for name in sorted(rows, key=order.index)}
    return recorded


def main(samples: int = 300, machine: str = "2 CPU cores", only: tuple[str, ...] = ()) -> None:
    """Run every method on both gates, or only some."""
    start = time.perf_counter()
    gates = {gate: compare_on(load(f"pocket:{gate}"), samples, only) for gate in GATES}
    date = datetime.date.today().isoformat()
    recorded = {"command": "python -m benchmarks.rivals", "machine": machine, "date": date, "gates": gates}
    if only:
        recorded = with_rows(json.loads(RESULTS.read_text(encoding="utf-8")), gates, only, date)
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page_table(recorded))
    print(page_table(recorded))
    print(f"{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
