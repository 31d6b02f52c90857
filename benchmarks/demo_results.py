"""Writes the numbers of a finished `r2t2 demo` run into README.md and docs/demo.md: `python -m benchmarks.demo_results
out/demo`.

The summary is kept in `benchmarks/results/demo.json` with machine and date; a test compares both pages with it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from benchmarks.pages import write_results
from r2t2_jax.cli.demo import SPARSE
from r2t2_jax.reporting.style import BLUE, VERMILLION, new_figure, shared_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
PICTURE = ROOT / "docs" / "images" / "demo.png"
COMMAND = "r2t2 demo --out out/demo"
IN_README = ("base", "ngd_paper", "ngd", "atlas")


def gates_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The models that answer with every strategy: all but the sparse one."""
    return {name: model for name, model in summary["models"].items() if name != SPARSE}


def sparse_table(summary: Mapping[str, Any]) -> str:
    """The table of the sparse model; empty if the run does not have it."""
    model = summary["models"].get(SPARSE)
    if model is None:
        return ""
    table = results_table({"models": {f"{SPARSE}, n = {model['n']}": model}})
    return f"\n{table}\n"


def results_table(summary: Mapping[str, Any], strategies: Sequence[str] | None = None) -> str:
    """A Markdown table with one row per strategy: accuracy, interval, and changes against `base` for every model.

    Args:
        summary: of a run (`summary.json`).
        strategies: the rows; all by default.
    """
    models = gates_of(summary)
    cells = ["strategy", "evaluations per sample"]
    for name in models:
        cells += [f"`{name}`: correct, 95 % interval", "wrong→right / right→wrong"]
    lines = [cells, ["---", "--:", *["--:"] * (2 * len(models))]]
    first = next(iter(models.values()))["strategies"]
    for name in strategies or first:
        row = [f"`{name}`", f"{first[name]['evaluations_per_sample']:g}"]
        for model in models.values():
            result = model["strategies"][name]
            low, high = result["ci95"]
            row.append(f"{100 * result['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
            row.append(f"{result['wrong_to_right']} / {result['right_to_wrong']}")
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_figure(summary: Mapping[str, Any], strategies: Sequence[str]) -> Figure:
    """Bars of accuracy with 95 % intervals, strategies by model."""
    models = gates_of(summary)
    figure = new_figure(narrow=False, height=2.4)
    axes = figure.subplots()
    height = 0.8 / len(models)
    for place, (model, color) in enumerate(zip(models, (BLUE, VERMILLION), strict=True)):
        results = [models[model]["strategies"][name] for name in strategies]
        accuracy = [100 * result["accuracy"] for result in results]
        below = [value - 100 * result["ci95"][0] for value, result in zip(accuracy, results, strict=True)]
        above = [100 * result["ci95"][1] - value for value, result in zip(accuracy, results, strict=True)]
        rows = [row + (place - (len(models) - 1) / 2) * height for row in range(len(strategies))]
        axes.barh(rows, accuracy, height=0.9 * height, color=color, label=model)
        axes.errorbar(accuracy, rows, xerr=[below, above], fmt="none", ecolor="black", elinewidth=1, capsize=2)
        for row, value in zip(rows, accuracy, strict=True):
            axes.text(2, row, f"{value:.1f} %", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(strategies)), strategies)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("correct answers, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def page_results(recorded: Mapping[str, Any], strategies: Sequence[str] | None = None) -> str:
    """The table and its origin, as a page shows them."""
    n = next(iter(recorded["summary"]["models"].values()))["n"]
    origin = f"`{recorded['command']}`, n = {n:,} test questions per model, {recorded['machine']}, {recorded['date']}."
    sparse = "" if strategies else sparse_table(recorded["summary"])
    return f"{results_table(recorded['summary'], strategies)}\n\n{origin}\n{sparse}"


def main(run: tyro.conf.Positional[Path], machine: str = "2 CPU cores") -> None:
    """Record the summary of a run folder, and write both pages and the picture."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    date = datetime.date.today().isoformat()
    recorded = {"command": COMMAND, "machine": machine, "date": date, "summary": summary}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_results(ROOT / "README.md", page_results(recorded, IN_README))
    write_results(ROOT / "docs" / "demo.md", page_results(recorded))
    PICTURE.parent.mkdir(exist_ok=True)
    with shared_style():
        accuracy_figure(summary, IN_README).savefig(PICTURE, metadata={"Software": None})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
