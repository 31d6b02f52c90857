"""What every method costs on MoAI-7B, MoVA-8B and the pocket model: tables, figures, JSON.

    python -m benchmarks.cost

Writes `benchmarks/results/cost.json`, a figure of each model beside it, and the tables into `docs/cost.md`. Nothing is
run or allocated, so the numbers do not depend on the machine. The pocket model's figure shows the accuracies of
`benchmarks/results/demo.json`; for the others none are recorded.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from r2t2_jax.costs.ladder import Ledger, Scale, ledger, ledger_record
from r2t2_jax.plugins import load_shapes
from r2t2_jax.reporting.costs import ledger_lines, ledger_markdown, paper_lines, rung_lines
from r2t2_jax.reporting.figures.cost import ledger_picture
from r2t2_jax.reporting.style import render_figure, shared_style

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "cost.md"
MODELS = {"pocket": "pocket:narrow", "moai": "moai:7b,dtype=bfloat16", "mova": "mova:8b"}


def accuracies(name: str) -> dict[str, float] | None:
    """What is recorded of a model's accuracies."""
    if name != "pocket":
        return None
    recorded = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    rows = recorded["summary"]["gates"]["narrow"]["strategies"]
    return {strategy: row["accuracy"] for strategy, row in rows.items()}


def with_table(page: str, found: Ledger) -> str:
    """The page with a model's table and notes between its marks."""
    notes = [*ledger_lines(found)[:-1], *rung_lines(found)]
    return between(page, found.model.partition(":")[0], f"{ledger_markdown(found)}\n\n{bullets(notes)}")


def bullets(lines: list[str]) -> str:
    """A list in Markdown."""
    return "".join(f"- {line}\n" for line in lines)


def between(page: str, mark: str, text: str) -> str:
    """The page with a text between two marks."""
    before, _, after = re.split(rf"(?<=<!-- {mark} -->\n)(.*?)(?=<!-- /{mark} -->\n)", page, flags=re.DOTALL)
    return f"{before}{text}{after}"


def main() -> None:
    """Count, write, draw."""
    records, page = {}, between(PAGE.read_text(encoding="utf-8"), "paper", bullets(paper_lines()))
    for name, model in MODELS.items():
        found = ledger(load_shapes(model), Scale())
        records[name] = ledger_record(found)
        page = with_table(page, found)
        with shared_style():
            (RESULTS / f"cost_{name}.png").write_bytes(render_figure(ledger_picture(found, accuracies(name))).png)
    PAGE.write_text(page, encoding="utf-8")
    recorded = {"command": "python -m benchmarks.cost", "models": records}
    (RESULTS / "cost.json").write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
