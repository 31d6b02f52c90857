"""The inspection of a reference bank: as text of 80 columns for a terminal, and as an HTML page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from r2t2_jax.analysis.atlas_inspection import AtlasInspection, PointChoice, SourcePoint
from r2t2_jax.bank.inspect import Inspection, Leakage
from r2t2_jax.reporting.page import render_template

WIDTH = 80
SHOWN_LEAKS = 5
MIN_WEIGHT, MAX_EXPERTS = 0.1, 3  # which experts of a routing point are named
POINT_UNITS = {"replace": "best weights, %", "shift": "largest shifts, % of a logit", "mixture": "largest shares, %"}
Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]  # header and rows


def inspection_text(
    title: str, inspection: Inspection, leakage: Leakage | None, atlas: AtlasInspection | None = None
) -> str:
    """The whole inspection as the command prints it."""
    lines = [title, ""]
    for name, text in _facts(inspection):
        lines += textwrap.wrap(text, WIDTH, initial_indent=f"{name:<12}", subsequent_indent=" " * 12)
    for table in (_source_table(inspection), _expert_table(inspection)):
        lines += ["", *_table_lines(table)]
    lines += ["", *textwrap.wrap(routing_verdict(inspection), WIDTH)]
    if leakage is not None:
        lines += ["", *textwrap.wrap(leakage_text(leakage), WIDTH)]
    if atlas is not None:
        for sentence in atlas_sentences(atlas):
            lines += ["", *textwrap.wrap(sentence, WIDTH)]
        for _, table in atlas_tables(atlas):
            lines += ["", *_table_lines(table)]
    return "\n".join(lines)


def inspection_page(
    title: str, inspection: Inspection, leakage: Leakage | None, atlas: AtlasInspection | None = None
) -> str:
    """The whole inspection as one self-contained HTML page."""
    return render_template(
        "bank_report.html.j2",
        title=title,
        verdict=routing_verdict(inspection),
        facts=_facts(inspection),
        leakage=None if leakage is None else leakage_text(leakage),
        sources=_source_table(inspection),
        experts=_expert_table(inspection),
        atlas_sentences=[] if atlas is None else atlas_sentences(atlas),
        atlas_tables=[] if atlas is None else atlas_tables(atlas),
    )


def routing_verdict(inspection: Inspection) -> str:
    """Whether the stored routing weights depend on the question, with the numbers of the permutation test."""
    test = inspection.predictability
    if test is None:
        return "All references have the same routing weights, so the weights do not depend on the question."
    numbers = (
        f"R^2 = {test.r2:.2f} at k = {test.k}, p = {test.p:.2g} ({test.permutations} permutations of "
        f"{test.n:,} references; the mean R^2 of permuted weights is {test.null:.2f})"
    )
    if not test.informative:
        return (
            "The routing weights cannot be distinguished from independent draws: the weights of a reference cannot be "
            f"predicted from its nearest questions, {numbers}. Kernel regression and mode finding cannot work with "
            "this bank; check how the weights were recorded."
        )
    if test.r2 <= 0:
        return (
            "The routing weights depend weakly on the question, more than independent draws would, but the mean of a "
            f"reference's neighbors predicts its weights worse than the mean of all references: {numbers}."
        )
    return (
        "The routing weights depend on the question: the weights of the nearest references predict those of a "
        f"reference with {numbers}."
    )


def leakage_text(leakage: Leakage) -> str:
    """The number of questions of an evaluation set that are also in the bank."""
    if leakage.leaks:
        names = ", ".join(leakage.leaks[:SHOWN_LEAKS]) + (" and more" if len(leakage.leaks) > SHOWN_LEAKS else "")
        leaks = (
            f"Leakage: {len(leakage.leaks):,} of {leakage.questions:,} questions are in the bank with the same image "
            f"and question: {names}."
        )
    else:
        leaks = f"No leakage: none of {leakage.questions:,} questions is in the bank with the same image and question."
    if leakage.images_known:
        images = f"Same image only: {leakage.same_image:,}."
    else:
        images = "The bank does not store images, so leaks were detected by id and question."
    return (
        f"{leaks} {images} Same question text only: {leakage.same_question:,}; nearly the same text: "
        f"{leakage.alike_question:,}."
    )


def atlas_sentences(atlas: AtlasInspection) -> list[str]:
    """The size of the atlas, whether neighbors rank routings as a reference's own losses do, and the effect of that."""
    chosen = atlas.by_points[-1]
    used = f"{atlas.looked_at:,} references" + ("" if atlas.looked_at == atlas.rows else f" of {atlas.rows:,}")
    return [
        f"The loss atlas holds {atlas.rows:,} references at {atlas.points} routing points. The numbers below are "
        f"leave-one-out, over {used}: the k = {atlas.k} nearest other references of each choose its point.",
        f"A neighborhood's losses and the reference's own rank the points with a Spearman correlation of "
        f"{atlas.spearman:.2f} (95 % interval {atlas.spearman - atlas.spearman_half_width:.2f} to "
        f"{atlas.spearman + atlas.spearman_half_width:.2f}).",
        f"At the point that the neighbors choose, {100 * chosen.likely_right:.1f} % of the references are likely right "
        f"(the answer has a probability above one half). At the best single point for all references it is "
        f"{100 * atlas.fixed.likely_right:.1f} %, at each reference's own best point "
        f"{100 * atlas.best.likely_right:.1f} %.",
    ]


def atlas_tables(atlas: AtlasInspection) -> list[tuple[str, Table]]:
    """Titles and tables: the best point of each source, and accuracy by points G, neighbors k and size of the bank."""
    sources = [
        (
            source.source or "unnamed",
            f"{source.rows:,}",
            _largest_weights(atlas, source.weights),
            f"{source.loss:.3f}",
            _loss_of_others(source),
        )
        for source in atlas.sources
    ]
    unit = POINT_UNITS[atlas.mode]
    header = ("source", "rows", unit, "its loss there", "of others")
    return [
        ("Best routing by source", (header, sources)),
        ("By number of points", _accuracy_table("points G", atlas.by_points, "points")),
        ("By number of neighbors", _accuracy_table("neighbors k", atlas.by_neighbors, "k")),
        ("By size of the bank", _accuracy_table("references", atlas.by_references, "references")),
    ]


def _loss_of_others(source: SourcePoint) -> str:
    return "" if math.isnan(source.loss_elsewhere) else f"{source.loss_elsewhere:.3f}"


def _largest_weights(atlas: AtlasInspection, weights: Sequence[float]) -> str:
    largest = sorted(zip(weights, atlas.experts, strict=True), reverse=True)[:MAX_EXPERTS]
    return ", ".join(f"{name} {100 * weight:.0f}" for weight, name in largest if weight >= MIN_WEIGHT)


def _accuracy_table(name: str, rows: Sequence[PointChoice], field: str) -> Table:
    cells = [(f"{getattr(row, field):,}", f"{100 * row.likely_right:.1f}", f"{row.loss:.3f}") for row in rows]
    return (name, "likely right %", "mean loss"), cells


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    wrong = inspection.rows - inspection.correct
    facts = [
        (
            "references",
            f"{inspection.rows:,}, of which {wrong:,} answered wrongly ({inspection.metric or 'no metric'})",
        ),
        ("model", inspection.model or "unnamed"),
        ("embedder", f"{inspection.embedder or 'unnamed'}, {inspection.embedding_size} dimensions"),
        ("routing", f"{inspection.layers} x {len(inspection.experts)} weights"),
        ("features", "stored" if inspection.features else "not stored; computed again when needed"),
        (
            "repeated",
            f"{inspection.repeated_questions:,} rows repeat the question of an earlier row, "
            f"{inspection.repeated_rows:,} also its image",
        ),
    ]
    if inspection.entropy is not None:
        facts.append(("entropy", f"{inspection.entropy:.2f} of the entropy of equal weights"))
    return facts


def _source_table(inspection: Inspection) -> Table:
    rows = [
        (
            source.name or "unnamed",
            f"{source.rows:,}",
            f"{source.correct:,}",
            f"{100 * source.correct / source.rows:.1f}",
        )
        for source in inspection.sources
    ]
    return ("source", "rows", "correct", "accuracy %"), rows


def _expert_table(inspection: Inspection) -> Table:
    rows = [(use.name, f"{use.mean:.3f}", f"{use.std:.3f}", f"{100 * use.largest:.1f}") for use in inspection.experts]
    return ("expert", "mean weight", "std", "largest %"), rows


def _table_lines(table: Table) -> list[str]:
    header, rows = table
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in (header, *rows)
    ]
