"""Does re-routing help a trained token-level mixture of experts? `python -m benchmarks.sparse`.

Every experiment evaluates strategies on `pocket:sparse`, with a bank of its own variant. Settings are chosen on
validation questions. With permuted labels the label of every question is that of another question of its family: the
rate at which the oracle reaches these labels shows how far it fits any label.
Finished experiments are kept in `--work`. The numbers go to `benchmarks/results/sparse.json`, the tables to
`docs/sparse.md`. `--runs DIR DIR` instead adds the tables of finished runs of `r2t2 reproduce c3po` to both.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.pages import write_results
from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.statistics import compare, wilson_interval
from r2t2_jax.method.presets import C3PO, PAPER, Preset
from r2t2_jax.methods import Method, method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import load
from r2t2_jax.reproduction.export import read_table, rows_table
from r2t2_jax.runs.reading import open_run

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "sparse.json", ROOT / "docs" / "sparse.md"
GRID = [
    {"space.kind": kind, "descent.optimizer": optimizer, "descent.learning_rate": rate}
    for kind, optimizer, rate in (("simplex", "adam", 0.03), ("simplex", "adam", 0.1), ("simplex", "adam", 0.3),
                                  ("free", "sgd", 0.1), ("free", "sgd", 1.0))
]  # fmt: skip
FIXED = ("base", "uniform", "kernel_regression")
CONTROLS = ("random_neighbors", "shuffled_references")


@dataclass(frozen=True)
class Sizes:
    """Numbers of questions.

    Args:
        fixed: test questions of strategies without a gradient.
        oracle: of the oracle, also with permuted labels.
        descents: of the other strategies with a gradient.
        tuning: validation questions.
        references: candidates for references.
    """

    fixed: int = 1000
    oracle: int = 300
    descents: int = 300
    tuning: int = 100
    references: int = 1000


def permuted(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """The samples, each with the answer of another sample of its family."""
    rng, answers = np.random.default_rng(seed), [sample.answers for sample in samples]
    families = np.array([sample.category for sample in samples])
    for family in np.unique(families):
        rows = np.flatnonzero(families == family)
        order = rng.permutation(rows)
        for row, other in zip(order, np.roll(order, 1), strict=True):
            answers[row] = samples[other].answers
    return [replace(sample, answers=answer) for sample, answer in zip(samples, answers, strict=True)]


@dataclass(frozen=True)
class Experiments:
    """Results by name, kept in a folder so that a later run continues."""

    work: Path
    sizes: Sizes

    def right(self, name: str, variant: str, samples: Sequence[Sample], methods: Mapping[str, Method]
              ) -> dict[str, np.ndarray]:  # fmt: skip
        """For each method, which of the samples it answers correctly; computed once."""
        file = self.work / f"{name}.json"
        if not file.exists():
            port = load(f"pocket:{variant}")
            results = self._evaluate(port, samples, methods)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({key: value.tolist() for key, value in results.items()}), encoding="utf-8")
        return {key: np.array(value, bool) for key, value in json.loads(file.read_text(encoding="utf-8")).items()}

    def _evaluate(self, port: Port, samples: Sequence[Sample], methods: Mapping[str, Method]) -> dict[str, np.ndarray]:
        metric = get_metric("exact_match")
        references = load_dataset("pocket", "reference", self.sizes.references)
        bank = collect_bank(port, references, metric, keep_wrong=True)
        results = evaluate(port, bank, encode_questions(port, samples), methods, metric)
        return {name: result.right for name, result in zip(methods, results, strict=True)}


def tuned(experiments: Experiments) -> tuple[Preset, list[dict[str, Any]]]:
    """The setting of the grid with the most right validation answers, and the accuracy of each."""
    samples = load_dataset("pocket", "validation", experiments.sizes.tuning)
    methods = {json.dumps(change): method_of("ngd", PAPER.with_settings(change)) for change in GRID}
    right = experiments.right("tuning", "sparse", samples, {"base": method_of("base"), **methods})
    scores = [{"settings": change, "accuracy": float(right[json.dumps(change)].mean())} for change in GRID]
    best = max(scores, key=lambda row: row["accuracy"])
    rows = [{"settings": {}, "accuracy": float(right["base"].mean())}, *scores]
    return PAPER.with_settings(best["settings"]), [{"n": len(samples)} | row for row in rows]


def table(right: Mapping[str, np.ndarray], base: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Accuracy, interval, paired gain over `base`, and both directions of change, for each method."""
    rows = []
    for name, hits in right.items():
        before = (right["base"] if base is None else base)[: len(hits)]
        gain = compare(before, hits)
        rows.append({
            "strategy": name, "n": len(hits), "accuracy": float(hits.mean()),
            "ci95": list(wilson_interval(int(hits.sum()), len(hits))), "gain": [gain.gain, gain.low, gain.high],
            "wrong_to_right": int((~before & hits).sum()), "right_to_wrong": int((before & ~hits).sum()),
        })  # fmt: skip
    return rows


def run_groups(experiments: Experiments, groups: Sequence[str]) -> dict[str, Any]:
    """The tables of the groups, from the folder where they are finished."""
    sizes, tests = experiments.sizes, load_dataset("pocket", "test", experiments.sizes.fixed)
    fixed = experiments.right("fixed", "sparse", tests, {name: method_of(name) for name in FIXED})
    preset, grid = tuned(experiments)
    tables: dict[str, Any] = {"tuning": grid, "settings": preset.to_mapping(), "fixed": table(fixed)}
    if "oracle" in groups:
        oracle, both = {"oracle": method_of("oracle", preset)}, ("base", "oracle")
        right = experiments.right("oracle", "sparse", tests[: sizes.oracle], oracle)
        labels = experiments.right("permuted", "sparse", permuted(tests[: sizes.oracle]),
                                   {name: method_of(name, preset) for name in both})  # fmt: skip
        tables |= {"oracle": table({"base": fixed["base"][: sizes.oracle]} | right), "permuted": table(labels)}
    if "descents" in groups:
        presets = {"ngd": preset, "ngd_c3po": C3PO, "ngd_paper": PAPER}
        methods = {name: method_of("ngd", settings) for name, settings in presets.items()}
        methods |= {name: method_of(name, preset) for name in CONTROLS}
        right = experiments.right("descents", "sparse", tests[: sizes.descents], methods)
        tables["descents"] = table({"base": fixed["base"][: sizes.descents]} | right)
    if "core" in groups:
        core = experiments.right("core", "sparse,core_experts=8", tests, {"uniform": method_of("uniform")})
        tables["core"] = table({"uniform, 8 core experts": core["uniform"]}, fixed["base"])
    return tables


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of a table in Markdown."""
    lines = []
    for row in rows:
        low, high = row["ci95"]
        gain, below, above = (100 * value for value in row["gain"])
        lines.append(
            f"| `{row['strategy']}` | {percent(row['accuracy'])} ({percent(low)} to {percent(high)}) | "
            f"{gain:+.1f} ({below:+.1f} to {above:+.1f}) | {row['wrong_to_right']} / {row['right_to_wrong']} |"
        )
    return lines


TITLES = {
    "fixed": "Weights without a gradient",
    "core": "Uniform weights over the 8 most probable experts of each layer",
    "descents": "Gradient descent: settings tuned on validation questions, those of C3PO and of R2-T2, and controls",
    "oracle": "The oracle, which reads the label",
    "permuted": "The oracle with permuted labels: the target is the label of another question of the family",
}


def page(recorded: Mapping[str, Any]) -> str:
    """The tables of the finished groups with command, n, machine and date."""
    head = [
        "| strategy | correct, %, 95 % interval | gain in points | wrong→right / right→wrong |",
        "|---|--:|--:|--:|",
    ]
    where = f"`{recorded['command']}`, {recorded['machine']}, {recorded['date']}"
    parts = []
    for name, title in TITLES.items():
        if name in recorded:
            n = recorded[name][0]["n"]
            parts += [f"{title} (n = {n:,} test questions):", "", *head, *lines_of(recorded[name]), ""]
    return "\n".join([*parts, f"{where}.", "", *c3po_lines(recorded)]).rstrip("\n") + "\n"


def tables_of(run: Path, machine: str) -> dict[str, Any]:
    """The tables of a finished run of `r2t2 reproduce`, with its command, machine and date."""
    saved = open_run(run)
    settings = saved.settings
    options = [f"--model {settings['model']}", *(["--bank out/bank"] if settings.get("bank") else [])]
    options += [f"--limit {settings['limit']}"] if settings.get("limit") else []
    command = " ".join(["r2t2 reproduce", settings["table"], *options, f"--out out/{settings['table']}"])
    tables = [read_table(run, name) for name in saved.summary["tables"]]
    return {"command": command, "machine": machine, "date": datetime.date.today().isoformat(), "tables": tables}


def c3po_lines(recorded: Mapping[str, Any]) -> list[str]:
    """The tables of the runs of `r2t2 reproduce c3po` in Markdown, each with n and command."""
    lines = []
    for run in recorded.get("c3po", ()):
        for table in run["tables"]:
            for model, settings in table["models"].items():
                for part in settings.values():
                    lines += [f"{table['title']}, `{model}`, n = {part['n']:,} test questions:", ""]
                    lines += [rows_table(part["rows"], part.get("columns", {})), ""]
                    lines += [line for note in part.get("notes", ()) for line in (note, "")]
        lines += [f"`{run['command']}`, {run['machine']}, {run['date']}.", ""]
    return lines


def main(
    groups: tuple[str, ...] = ("oracle", "descents", "core"),
    runs: tuple[Path, ...] = (),
    sizes: Sizes = Sizes(),
    work: Path = Path("build/sparse-benchmark"),
    machine: str = "2 CPU cores",
) -> None:
    """Run the experiments that are not finished, or add the tables of `runs`, and write the results."""
    if runs:
        recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
        write(recorded | {"c3po": [tables_of(run, machine) for run in runs]})
        return
    date = datetime.date.today().isoformat()
    recorded = {"command": "python -m benchmarks.sparse", "machine": machine, "date": date}
    recorded |= {"weights": load("pocket:sparse").fingerprint, "references": sizes.references}
    recorded |= run_groups(Experiments(work, sizes), groups)
    write(recorded)


def write(recorded: Mapping[str, Any]) -> None:
    """Write the numbers and the page."""
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(PAGE, page(recorded))
    print(page(recorded))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
