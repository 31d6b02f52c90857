"""Shows predictions as text, as cards in a notebook and as an HTML page.

```python
print(as_text(prediction))
NotebookView([prediction])  # as the last line of a notebook cell
```
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from r2t2_jax.inference import Prediction
from r2t2_jax.reporting.examples import USED_FALLBACK, Example
from r2t2_jax.reporting.formatting import duration, percent, plain_console, plural
from r2t2_jax.reporting.images import as_png
from r2t2_jax.reporting.page import render_template

WIDTH = 80
ROUTER, NO_ANSWER = "router", "(no answer)"
IS_REFERENCE = "This question about this image is a reference: the bank holds its answer."


def as_text(prediction: Prediction) -> str:
    """The prediction at 80 columns: both answers, neighbors, routing weights and cost."""
    example = _example(prediction)
    out = io.StringIO()
    console = plain_console(file=out, width=WIDTH, color_system=None, highlight=False)
    width = max(len(ROUTER), len(prediction.strategy))
    console.print(f"{prediction.model}: {prediction.question}\n")
    console.print(f"  {ROUTER:{width}}  {prediction.before or NO_ANSWER}")
    console.print(f"  {prediction.strategy:{width}}  {prediction.after or NO_ANSWER}")
    for part in (_neighbor_table(example), example.note, _routing_table(example), _cost_line(prediction)):
        if part:
            console.print()
            console.print(part)
    lines = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()  # rich surrounds tables with blank lines


def as_html(predictions: Sequence[Prediction]) -> str:
    """One card per prediction, with the style sheet, as an HTML fragment."""
    return render_template("cards.html.j2", examples=list(map(_example, predictions)))


@dataclass(frozen=True)
class NotebookView:
    """Displays predictions as cards in a notebook."""

    predictions: Sequence[Prediction]

    def _repr_html_(self) -> str:
        return as_html(self.predictions)


def as_page(prediction: Prediction) -> str:
    """A self-contained HTML page."""
    return render_template(
        "answer_report.html.j2",
        title=f"{prediction.model}: {prediction.question}",
        example=_example(prediction),
        cost_line=_cost_line(prediction),
    )


def _neighbor_table(example: Example) -> Table | None:
    if not example.neighbors:
        return None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("neighbor", overflow="fold")
    table.add_column("answer", overflow="fold")
    table.add_column("weight, %", justify="right", no_wrap=True)
    for neighbor in example.neighbors:
        table.add_row(neighbor.question or neighbor.id, neighbor.answer or "-", percent(neighbor.share))
    return table


def _routing_table(example: Example) -> Table:
    routing = example.routing_table
    table = Table(title=routing.caption, box=SIMPLE_HEAD, title_justify="left", title_style="", pad_edge=False)
    table.add_column("expert", overflow="fold")
    for layer in routing.layers:
        for heading in ("before", "after"):
            table.add_column(f"{layer}\n{heading}", justify="right", no_wrap=True)
    for name, weights in routing.rows():
        table.add_row(name, *(percent(weight) for weight, _ in weights))
    return table


def _cost_line(prediction: Prediction) -> str:
    times = ", ".join(f"{part} {duration(seconds)}" for part, seconds in prediction.seconds.items())
    preset = f"Preset {prediction.preset}. " if prediction.preset else ""
    evaluations = plural(prediction.evaluations, "evaluation")
    return f"{preset}{evaluations}. Time: {times}. Times include compilation on first use."


def _example(prediction: Prediction) -> Example:
    return Example(
        title=prediction.model,
        family="",
        question=prediction.question,
        expected=(),
        answer_before=prediction.before,
        answer_after=prediction.after,
        right_before=None,
        right_after=None,
        strategy=prediction.strategy,
        neighbors=prediction.neighbors,
        experts=prediction.experts,
        layers=prediction.layers,
        weights_before=prediction.router_weights,
        weights_after=prediction.weights,
        image=None if prediction.image is None else as_png(prediction.image),
        note=" ".join(_notes(prediction)),
    )


def _notes(prediction: Prediction) -> list[str]:
    """Remarks that the answer needs to be read correctly."""
    notes = [USED_FALLBACK] if prediction.used_fallback else []
    return [*notes, IS_REFERENCE] if prediction.is_reference else notes
