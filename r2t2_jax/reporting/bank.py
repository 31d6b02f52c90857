"""A bank's inspection in words: at 80 columns for a terminal, and as a page."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from r2t2_jax.bank.inspection import Inspection
from r2t2_jax.bank.leakage import Leakage
from r2t2_jax.evaluation.atlas_inspection import AtlasInspection
from r2t2_jax.reporting.atlas import atlas_sentences, atlas_tables
from r2t2_jax.reporting.markup import Html, tag
from r2t2_jax.reporting.page import page

WIDTH = 80
SHOWN = 5  # leaks by name
Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]


def verdict(inspection: Inspection) -> str:
    """Whether the stored routing weights know anything about the question, with the numbers that say so."""
    found = inspection.knowledge
    if found is None:
        return "All references have the same routing weights: they know nothing about the question."
    numbers = (
        f"R^2 = {found.r2:.2f} at k = {found.k}, p = {found.p:.2g} ({found.permutations} permutations of "
        f"{found.n:,} references; independent draws give {found.null:.2f})"
    )
    if not found.informative:
        return (
            "The routing weights are indistinguishable from independent draws: a reference's nearest questions say "
            f"nothing about its weights, {numbers}. Kernel regression and mode finding have nothing to find here; "
            "check how these weights were recorded."
        )
    if found.r2 <= 0:
        return (
            "The routing weights know a little about the question, more than independent draws would, but the mean of "
            f"the neighbours predicts them worse than the mean of all: {numbers}."
        )
    return f"The routing weights know something about the question: its nearest references predict them with {numbers}."


def leakage_text(leakage: Leakage) -> str:
    """What of an evaluation set stands in the bank."""
    share = f"of {leakage.questions:,} questions"
    shown = ", ".join(leakage.leaks[:SHOWN]) + (" and more" if len(leakage.leaks) > SHOWN else "")
    leaks = (
        f"{len(leakage.leaks):,} {share} stand in the bank, image and question: {shown}."
        if leakage.leaks
        else (f"None {share} stands in the bank with image and question.")
    )
    images = (
        f"{leakage.same_image:,} are about an image of the bank"
        if leakage.images_known
        else ("the bank knows no images, so leaks were told by id and question")
    )
    return (
        f"{leaks} Beside that, {images}; {leakage.same_question:,} have a question text of the bank, "
        f"{leakage.alike_question:,} one that is nearly the same."
    )


def inspection_text(
    title: str, inspection: Inspection, leakage: Leakage | None, atlas: AtlasInspection | None = None
) -> str:
    """Everything, as the command prints it."""
    lines = [title, ""]
    for name, text in _facts(inspection):
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)
    for table in (_sources(inspection), _experts(inspection)):
        lines += ["", *_as_text(table)]
    lines += ["", *textwrap.wrap(verdict(inspection), WIDTH)]
    if leakage is not None:
        lines += ["", *textwrap.wrap(leakage_text(leakage), WIDTH)]
    if atlas is not None:
        for sentence in atlas_sentences(atlas):
            lines += ["", *textwrap.wrap(sentence, WIDTH)]
        for _, table in atlas_tables(atlas):
            lines += ["", *_as_text(table)]
    return "\n".join(lines)


def inspection_page(
    title: str, inspection: Inspection, leakage: Leakage | None, atlas: AtlasInspection | None = None
) -> str:
    """The same as one self-contained HTML page."""
    facts = tag("dl", *(part for name, text in _facts(inspection) for part in (tag("dt", name), tag("dd", text))))
    parts = [tag("h1", title), tag("p", tag("strong", verdict(inspection))), facts]
    if leakage is not None:
        parts += [tag("h2", "Leakage"), tag("p", leakage_text(leakage))]
    parts += [tag("h2", "Accuracy by source"), _as_html(_sources(inspection))]
    parts += [tag("h2", "Experts"), _as_html(_experts(inspection))]
    if atlas is not None:
        parts += [tag("h2", "Loss atlas"), *(tag("p", sentence) for sentence in atlas_sentences(atlas))]
        parts += [part for name, table in atlas_tables(atlas) for part in (tag("h3", name), _as_html(table))]
    return page(title, *parts)


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    wrong = inspection.rows - inspection.correct
    facts = [
        (
            "references",
            f"{inspection.rows:,}, of which {wrong:,} answered wrongly ({inspection.metric or 'no metric'})",
        ),
        ("model", inspection.model or "unnamed"),
        ("embedder", f"{inspection.embedder or 'unnamed'}, {inspection.embedding_size} numbers a question"),
        ("routing", f"{inspection.layers} x {len(inspection.experts)} weights"),
        ("features", "stored" if inspection.features else "not stored; computed again when asked for"),
        (
            "repeated",
            f"{inspection.repeated_questions:,} rows have the question of an earlier row, "
            f"{inspection.repeated_rows:,} its image too",
        ),
    ]
    if inspection.entropy is not None:
        facts.append(("entropy", f"{inspection.entropy:.2f} of that of equal weights"))
    return facts


def _sources(inspection: Inspection) -> Table:
    rows = [
        (one.name or "unnamed", f"{one.rows:,}", f"{one.correct:,}", f"{100 * one.correct / one.rows:.1f}")
        for one in inspection.sources
    ]
    return ("source", "rows", "correct", "accuracy %"), rows


def _experts(inspection: Inspection) -> Table:
    rows = [
        (use.name, f"{use.weight:.3f}", f"{use.spread:.3f}", f"{100 * use.first:.1f}") for use in inspection.experts
    ]
    return ("expert", "mean weight", "spread", "first %"), rows


def _as_text(table: Table) -> list[str]:
    header, rows = table
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (header, *rows)
    ]


def _as_html(table: Table) -> Html:
    header, rows = table
    head = tag("tr", *(tag("th", name) for name in header))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("table", tag("thead", head), tag("tbody", *body))
