"""Put the numbers of a finished `r2t2 demo` run into the README: `python -m benchmarks.readme_results out/demo`.

The summary is kept in `benchmarks/results/demo.json` with machine and date; a test compares the README with it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from benchmarks.pages import write_results

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
HEADERS = {"pocket:narrow": "narrow gate", "pocket:balanced": "balanced gate"}


def results_table(summary: Mapping[str, Any]) -> str:
    """A Markdown table with one row a strategy: accuracy, interval, and flips against `base` for both gates."""
    models = summary["models"]
    cells = ["strategy", "evaluations a case"]
    for model in models:
        cells += [f"{HEADERS[model]}: right, 95 % interval", "wrong→right / right→wrong"]
    lines = [cells, ["---", "--:", *["--:"] * (2 * len(models))]]
    for name, first in next(iter(models.values()))["strategies"].items():
        row = [f"`{name}`", f"{first['evaluations_per_sample']:g}"]
        for numbers in models.values():
            found = numbers["strategies"][name]
            low, high = found["ci95"]
            row.append(f"{100 * found['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
            row.append(f"{found['wrong_to_right']} / {found['right_to_wrong']}")
        lines.append(row)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(run: tyro.conf.Positional[Path], machine: str = "2 CPU cores") -> None:
    """Record the summary of a run folder and rewrite the README's table."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    date = datetime.date.today().isoformat()
    recorded = {"command": "r2t2 demo --out out/demo", "machine": machine, "date": date, "summary": summary}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    n = next(iter(summary["models"].values()))["n"]
    where = f"`{recorded['command']}`, n = {n:,} test questions a gate, {machine}, {date}."
    write_results(ROOT / "README.md", f"{results_table(summary)}\n\n{where}\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
