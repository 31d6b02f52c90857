"""The cost of every method on MoAI-7B, MoVA-8B and the pocket model, as tables, figures and JSON.

    python -m benchmarks.cost

The results are `benchmarks/results/cost.json`, a figure per model in the same folder, and the tables in `docs/cost.md`.
Nothing is executed or allocated, so the numbers do not depend on the machine. The figure of the pocket model shows the
accuracies of `benchmarks/results/demo.json`; none are recorded for the other models.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from r2t2_jax.costs.ladder import CostSettings, CostTable, cost_record, cost_table
from r2t2_jax.plugins import load_shapes
from r2t2_jax.reporting.costs import cost_notes, method_markdown, paper_lines, variant_lines
from r2t2_jax.reporting.figures.cost import cost_table_figure
from r2t2_jax.reporting.style import draw_figure

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "cost.md"
MODELS = {"pocket": "pocket:narrow", "moai": "moai:7b,dtype=bfloat16", "mova": "mova:8b"}


def accuracies(name: str) -> dict[str, float] | None:
    """The recorded accuracies of a model by strategy, if there are any."""
    if name != "pocket":
        return None
    recorded = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    rows = recorded["summary"]["models"]["pocket:narrow"]["strategies"]
    return {strategy: row["accuracy"] for strategy, row in rows.items()}


def with_table(page: str, table: CostTable) -> str:
    """The page with a model's table and notes between its marks."""
    notes = [*cost_notes(table)[:-1], *variant_lines(table)]
    return between(page, table.model.partition(":")[0], f"{method_markdown(table)}\n\n{bullets(notes)}")


def bullets(lines: list[str]) -> str:
    """A Markdown list."""
    return "".join(f"- {line}\n" for line in lines)


def between(page: str, mark: str, text: str) -> str:
    """The page with the text between two marks replaced."""
    before, _, after = re.split(rf"(?<=<!-- {mark} -->\n)(.*?)(?=<!-- /{mark} -->\n)", page, flags=re.DOTALL)
    return f"{before}{text}{after}"


def main() -> None:
    """Count the costs, write the tables and draw the figures."""
    records, page = {}, between(PAGE.read_text(encoding="utf-8"), "paper", bullets(paper_lines()))
    for name, model in MODELS.items():
        table = cost_table(load_shapes(model), CostSettings())
        records[name] = cost_record(table)
        page = with_table(page, table)
        figure = draw_figure(cost_table_figure(table, accuracies(name)))
        (RESULTS / f"cost_{name}.png").write_bytes(figure.wide.png())
    PAGE.write_text(page, encoding="utf-8")
    recorded = {"command": "python -m benchmarks.cost", "models": records}
    (RESULTS / "cost.json").write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
