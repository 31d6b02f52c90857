"""easy-VQA on the pocket model, zero-shot: `python -m benchmarks.easy_vqa --manual-dir FOLDER`.

The references are questions of the train split, the test set is a part of the test split. Both splits are prepared from
the official files in FOLDER if necessary (github.com/vzhou842/easy-VQA, folder easy_vqa/data). Every strategy runs with
the preset tuned on the pocket validation questions, `ngd_paper` with the paper's; nothing is tuned on easy-VQA.
`task_routing` is left out because the dataset names no experts, and strategies that need a loss atlas are left out. The
numbers go to `benchmarks/results/easy_vqa.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from ports.pocket.params import GATES
from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import find_dataset
from r2t2_jax.datasets.prepare import prepare
from r2t2_jax.datasets.prepared import data_folder
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.references import right_without_image
from r2t2_jax.evaluation.statistics import compare, summarize
from r2t2_jax.methods import find_preset, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.reporting.tables import strategy_table
from r2t2_jax.runs.fingerprint import versions

RESULTS = Path(__file__).parent / "results" / "easy_vqa.json"
PRESET = "pocket"
STRATEGIES = (
    *("base", "router_mean", "uniform", "random_neighbors", "shuffled_references"),
    *("mode_finding", "kernel_regression", "kernel_regression_alpha", "ngd_paper", "ngd", "best_of_n", "oracle"),
)
DIGITS = 4
Row = dict[str, Any]


def run_gate(gate: str, references: Sequence[Sample], tests: Sequence[Sample], console: Console) -> Row:
    """The results of every strategy with one gate: accuracy with interval, and paired gain over the untouched model."""
    port, metric = load(f"pocket:{gate}"), get_metric("exact_match")
    start = time.perf_counter()
    bank = collect_bank(port, references, metric)
    questions = encode_questions(port, tests)
    tuned, paper = find_preset(PRESET, port.presets), find_preset("paper")
    strategies = {name: strategy("ngd", paper) if name == "ngd_paper" else strategy(name, tuned) for name in STRATEGIES}
    results = evaluate(port, bank, questions, strategies, metric)
    right = {result.name: result.right for result in results}
    evaluations = {result.name: result.evaluations for result in results}
    blind = right_without_image(port.embedder, references, tests, metric)
    summary = summarize(right, evaluations, [sample.category for sample in tests], {"question_only": blind})
    for name, row in summary["strategies"].items():
        gain = compare(right["base"], right[name])
        row["gain_over_base"] = [round(value, DIGITS) for value in (gain.gain, gain.low, gain.high)]
    seconds = {result.name: result.seconds_per_sample for result in results}
    title = f"easy-VQA, {port.name}: {len(tests):,} questions, {len(bank):,} of {len(references):,} references correct"
    console.print(strategy_table(title, summary, seconds))
    bank_facts = {"asked": len(references), "kept": len(bank), "question_only": round(float(blind.mean()), DIGITS)}
    return {"references": bank_facts, "summary": summary, "seconds": round(time.perf_counter() - start)}


def main(manual_dir: Path, references: int = 3000, tests: int = 1000, seed: int = 0, out: Path = RESULTS) -> None:
    """Prepare the dataset, collect the bank, run the strategies and write the results.

    Args:
        manual_dir: folder with train/ and test/ of easy-VQA.
        references: number of questions of the train split for the bank.
        tests: number of questions of the test split.
        seed: seed of the choice of questions.
        out: file of the results.
    """
    for result in prepare(find_dataset("easy_vqa"), manual_dir, data_folder()):
        print(f"easy_vqa {result.split}: {result.prepared.count if result.prepared else result.missing}")
    train = load_dataset("easy_vqa", "train", references, seed)
    test = load_dataset("easy_vqa", "test", tests, seed)
    answers, counts = np.unique([sample.answers[0] for sample in test], return_counts=True)
    console = Console()
    gates = {gate: run_gate(gate, train, test, console) for gate in GATES}
    most_common = {"answer": str(answers[counts.argmax()]), "accuracy": round(counts.max() / len(test), DIGITS)}
    content = {
        "settings": {"references": references, "tests": tests, "seed": seed, "preset": PRESET},
        "versions": versions(),
        "most_common_answer": most_common,
        "gates": gates,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def results_table(content: Row) -> str:
    """The rows of the table in docs/datasets.md: accuracy, paired gain over `base`, answers that changed."""
    by_gate = [content["gates"][gate]["summary"]["strategies"] for gate in GATES]
    lines = []
    for name in by_gate[0]:
        cells = [f"`{name}`"]
        for row in (strategies[name] for strategies in by_gate):
            low, high = row["ci95"]
            cells.append(f"{100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})")
            gain, lower, upper = row["gain_over_base"]
            changed = f"{row['wrong_to_right']} / {row['right_to_wrong']}"
            shown = (f"{100 * gain:+.1f} ({100 * lower:+.1f} to {100 * upper:+.1f})", changed)
            cells += ("", "") if name == "base" else shown
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
