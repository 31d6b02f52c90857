"""A bank's inspection in words: at 80 columns for a terminal, and as a page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from r2t2_jax.analysis.atlas_inspection import AtlasInspection, Chosen, SourcePoint
from r2t2_jax.bank.inspect import Inspection, Leakage
from r2t2_jax.reporting.page import Html, page, tag

NAMED, MOST = 0.1, 3  # experts of less weight are not named, nor more than so many


def atlas_sentences(found: AtlasInspection) -> list[str]:
    """What the atlas is, whether neighbours rank routings as a reference itself does, and what that is worth."""
    chosen = found.by_points[-1]
    looked = f"{found.looked_at:,} references" + ("" if found.looked_at == found.rows else f" of {found.rows:,}")
    return [
        f"The loss atlas holds {found.rows:,} references at {found.points} routing points. Read off it, for {looked}, "
        f"each left out while its k = {found.k} nearest choose:",
        f"A neighbourhood's losses rank the points like the reference's own with a Spearman correlation of "
        f"{found.spearman:.2f} (95 % interval {found.spearman - found.spearman_half_width:.2f} to "
        f"{found.spearman + found.spearman_half_width:.2f}).",
        f"At the point its neighbours choose, {100 * chosen.likely_right:.1f} % of the references are likely right "
        f"(their answer has probability above one half); {100 * found.fixed.likely_right:.1f} % at the one point that "
        f"is best for all, {100 * found.best.likely_right:.1f} % at the point each would choose for itself.",
    ]


def atlas_tables(found: AtlasInspection) -> list[tuple[str, Table]]:
    """Titles and tables: the point each source likes, and accuracy against G, k and the size of the bank."""
    sources = [
        (one.source or "unnamed", f"{one.rows:,}", _weights(found, one.weights), f"{one.loss:.3f}", _elsewhere(one))
        for one in found.sources
    ]
    return [
        ("Routing by source", (("source", "rows", "likes", "loss there", "of others"), sources)),
        ("Against the number of points", _against("points G", found.by_points, "points")),
        ("Against the number of neighbours", _against("neighbours k", found.by_neighbors, "k")),
        ("Against the size of the bank", _against("references", found.by_references, "references")),
    ]


def _elsewhere(one: SourcePoint) -> str:
    return "" if math.isnan(one.loss_elsewhere) else f"{one.loss_elsewhere:.3f}"


def _weights(found: AtlasInspection, weights: Sequence[float]) -> str:
    shares = sorted(zip(weights, found.experts, strict=True), reverse=True)[:MOST]
    return ", ".join(f"{name} {100 * weight:.0f}" for weight, name in shares if weight >= NAMED)


def _against(name: str, rows: Sequence[Chosen], field: str) -> Table:
    cells = [(f"{getattr(row, field):,}", f"{100 * row.likely_right:.1f}", f"{row.loss:.3f}") for row in rows]
    return (name, "likely right %", "mean loss"), cells


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
