"""One answered question for a terminal, a notebook and a page."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from r2t2_jax.reporting.cases import FELL_BACK, Case, shown_routing
from r2t2_jax.reporting.formatting import count, duration
from r2t2_jax.reporting.images import as_png
from r2t2_jax.reporting.page import Html, card, card_style, page, tag
from r2t2_jax.reporting.tables import percent

if TYPE_CHECKING:
    from r2t2_jax.inference import Prediction

WIDTH = 80
ROUTER, NOTHING = "router", "(no answer)"


def as_text(answered: Prediction) -> str:
    """Readable at 80 columns."""
    case = _case(answered, answered.model)
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
    who = max(len(ROUTER), len(answered.strategy))
    console.print(f"{answered.model}: {answered.question}\n")
    console.print(f"  {ROUTER:{who}}  {answered.before or NOTHING}")
    console.print(f"  {answered.strategy:{who}}  {answered.after or NOTHING}")
    for part in (_neighbor_table(case), case.note, _routing_table(case), _costs(answered)):
        if part:
            console.print()
            console.print(part)
    lines = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip()  # tables bring blank lines of their own


def as_html(answers: Sequence[Prediction]) -> str:
    """Cards for a notebook, with their style."""
    return tag("div", card_style(), *map(_card, answers), class_="r2t2-cards")


def as_page(answered: Prediction) -> str:
    """A page of its own."""
    note = tag("p", _costs(answered), class_="note")
    return page(f"{answered.model}: {answered.question}", tag("h1", answered.question), _card(answered), note)


def _card(answered: Prediction) -> Html:
    return card(_case(answered, answered.model))


def _neighbor_table(case: Case) -> Table | None:
    if not case.neighbors:
        return None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("neighbour", overflow="fold")
    table.add_column("answer", overflow="fold")
    table.add_column("weight, %", justify="right", no_wrap=True)
    for neighbor in case.neighbors:
        table.add_row(neighbor.question or neighbor.id, neighbor.answer or "-", percent(neighbor.share))
    return table


def _routing_table(case: Case) -> Table:
    shown = shown_routing(case)
    table = Table(title=shown.caption, box=SIMPLE_HEAD, title_justify="left", title_style="", pad_edge=False)
    table.add_column("expert", overflow="fold")
    for layer in shown.layers:
        for word in ("before", "after"):
            table.add_column(f"{layer}\n{word}", justify="right", no_wrap=True)
    for expert, name in enumerate(shown.experts):
        pairs = zip(shown.before, shown.after, strict=True)
        table.add_row(name, *(percent(float(row[expert])) for pair in pairs for row in pair))
    return table


def _costs(answered: Prediction) -> str:
    times = ", ".join(f"{part} {duration(seconds)}" for part, seconds in answered.seconds.items())
    preset = f"Preset {answered.preset}. " if answered.preset else ""
    return (
        f"{preset}{count(answered.evaluations, 'evaluation')}. Time: {times}; "
        "whatever runs for the first time is compiled first."
    )


def _case(answered: Prediction, title: str) -> Case:
    return Case(
        title=title,
        family="",
        question=answered.question,
        expected=(),
        answer_before=answered.before,
        answer_after=answered.after,
        right_before=None,
        right_after=None,
        strategy=answered.strategy,
        neighbors=answered.neighbors,
        experts=answered.experts,
        layers=answered.layers,
        weights_before=answered.router_weights,
        weights_after=answered.weights,
        losses=tuple(answered.losses.tolist()),
        image=as_png(answered.image),
        note=FELL_BACK if answered.used_fallback else "",
    )
