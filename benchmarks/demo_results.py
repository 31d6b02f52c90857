"""Writes the numbers of a finished `r2t2 demo` run into README.md and docs/demo.md: `python -m benchmarks.demo_results
out/demo`.

The summary is kept in `benchmarks/results/demo.json` with machine and date; a test compares both pages with it. The
report of the run is written three times, to measure the time that it takes.
README's row of the sparse model is from `benchmarks/results/sparse.json` (`python -m benchmarks.sparse`).
"""

from __future__ import annotations

import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.pages import write_results
from r2t2_jax.cli.demo import SPARSE
from r2t2_jax.reporting.axes import Area, color_key, draw_axes, draw_legend, legend_height, name_axis, number_axis
from r2t2_jax.reporting.drawing import Drawing
from r2t2_jax.reporting.report import write_report
from r2t2_jax.reporting.style import BLACK, BLUE, VERMILLION, new_drawing

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
SPARSE_RESULTS = ROOT / "benchmarks" / "results" / "sparse.json"
PICTURE = ROOT / "docs" / "images" / "demo.png"
COMMAND = "r2t2 demo --out out/demo"
IN_README = ("base", "ngd_paper", "ngd", "atlas")
SPARSE_ROWS = {"base": "base", "ngd, R2-T2": "ngd_paper", "ngd, own": "ngd", "atlas": "atlas"}


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


def results_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table with one row per strategy: accuracy, interval, and changes against `base` for every model."""
    models = gates_of(summary)
    cells = ["strategy", "evaluations per sample"]
    for name in models:
        cells += [f"`{name}`: correct, 95 % interval", "wrong→right / right→wrong"]
    lines = [cells, ["---", "--:", *["--:"] * (2 * len(models))]]
    first = next(iter(models.values()))["strategies"]
    for name in first:
        row = [f"`{name}`", f"{first[name]['evaluations_per_sample']:g}"]
        for model in models.values():
            result = model["strategies"][name]
            low, high = result["ci95"]
            row.append(f"{100 * result['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
            row.append(f"{result['wrong_to_right']} / {result['right_to_wrong']}")
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw_accuracy(summary: Mapping[str, Any], strategies: Sequence[str]) -> Drawing:
    """Bars of accuracy with 95 % intervals, strategies by model."""
    models = gates_of(summary)
    drawing, colors = new_drawing(narrow=False, height=173), dict(zip(models, (BLUE, VERMILLION), strict=True))
    draw_legend(drawing, [(model, color_key(color)) for model, color in colors.items()], len(models))
    area = Area(0, legend_height(len(models), len(models)), drawing.width, drawing.height)
    axes = draw_axes(drawing, area, number_axis(0, 100, "correct answers, %"), name_axis(strategies, downward=True))
    height = 0.8 / len(models)
    for place, (model, color) in enumerate(colors.items()):
        for row, name in enumerate(strategies):
            result = models[model]["strategies"][name]
            accuracy, middle = 100 * result["accuracy"], row + (place - (len(models) - 1) / 2) * height
            axes.bar((0, middle - 0.45 * height), (accuracy, middle + 0.45 * height), color)
            low, high = (100 * bound for bound in result["ci95"])
            axes.line([(low, middle), (high, middle)], BLACK, 1)
            drawing.text(axes.at(2, middle), f"{accuracy:.1f} %", size=8, color="white")
    return drawing


def page_results(recorded: Mapping[str, Any]) -> str:
    """The table of all strategies and its origin, as docs/demo.md shows them."""
    n = next(iter(recorded["summary"]["models"].values()))["n"]
    origin = f"`{recorded['command']}`, n = {n:,} test questions per model, {recorded['machine']}, {recorded['date']}."
    report = recorded["report"]
    origin += (
        f" The report has {report['megabytes']:.2f} MB; writing it takes {report['seconds']:.1f} s (median of "
        f"{report['repeats']}, from {report['least']:.1f} to {report['most']:.1f}), Python's imports not counted."
    )
    return f"{results_table(recorded['summary'])}\n\n{origin}\n{sparse_table(recorded['summary'])}"


def sparse_strategies(sparse: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The sparse model's rows of C3PO's tables by strategy, and their origin."""
    rows: dict[str, Any] = {}
    origins = dict[str, None]()  # ordered, and the same only once
    for run in sparse["runs"]:
        for table in run["tables"]:
            part = table["models"].get(SPARSE, {}).get("c3po")
            if table["table"] not in ("c3po_methods", "c3po_atlas") or part is None:
                continue
            for row in part["rows"]:
                if row["name"] in SPARSE_ROWS:
                    rows.setdefault(SPARSE_ROWS[row["name"]], row)
            origins[f"n = {part['n']:,}, {run['machine']}, {run['date']}"] = None
    return rows, f"`{SPARSE}`: [C3PO's tables](docs/sparse.md), {'; '.join(origins)}."


def readme_results(recorded: Mapping[str, Any], sparse: Mapping[str, Any]) -> str:
    """README's table, with one row per model, and its origin."""
    gates = gates_of(recorded["summary"])
    by_model = {name: model["strategies"] for name, model in gates.items()}
    rows, sparse_origin = sparse_strategies(sparse)
    by_model |= {SPARSE: rows} if set(IN_README) <= set(rows) else {}
    evaluations = {name: next(iter(by_model.values()))[name]["evaluations_per_sample"] for name in IN_README}
    heads = [f"`{name}`, {number:g} evaluation{'s' * (number > 1)}" for name, number in evaluations.items()]
    table = [["model", *heads], ["---", *["--:"] * len(heads)]]
    for model, strategies in by_model.items():
        cells = []
        for name in IN_README:
            row, (low, high) = strategies[name], strategies[name]["ci95"]
            changes = "" if name == "base" else f"; {row['wrong_to_right']} / {row['right_to_wrong']}"
            cells.append(f"{100 * row['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f}){changes}")
        table.append([f"`{model}`", *cells])
    n = next(iter(gates.values()))["n"]
    first = f"`{recorded['command']}`, n = {n:,} test questions per model, {recorded['machine']}, {recorded['date']}."
    lines = ["Correct answers with 95 % interval; wrong→right / right→wrong against `base`.", first, sparse_origin]
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n\n" + "\n".join(lines) + "\n"


def write_readme() -> None:
    """Write README's table from the recorded numbers."""
    recorded, sparse = (json.loads(path.read_text(encoding="utf-8")) for path in (RESULTS, SPARSE_RESULTS))
    write_results(ROOT / "README.md", readme_results(recorded, sparse))


def measure_report(run: Path, repeats: int = 3) -> dict[str, float]:
    """Megabytes of the report of a run, and the seconds to write it: median, least and most."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(repeats):
            start = time.perf_counter()
            page = write_report(run, Path(folder) / f"{i}.html")
            seconds.append(time.perf_counter() - start)
        megabytes = page.stat().st_size / 1e6
    median, least, most = statistics.median(seconds), min(seconds), max(seconds)
    numbers = {"megabytes": megabytes, "seconds": median, "least": least, "most": most}
    return {name: round(number, 2) for name, number in numbers.items()} | {"repeats": repeats}


def main(run: tyro.conf.Positional[Path], machine: str = "2 CPU cores") -> None:
    """Record the summary of a run folder, and write both pages and the picture."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    date = datetime.date.today().isoformat()
    recorded = {"command": COMMAND, "machine": machine, "date": date, "report": measure_report(run), "summary": summary}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    write_readme()
    write_results(ROOT / "docs" / "demo.md", page_results(recorded))
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(draw_accuracy(summary, IN_README).png())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
