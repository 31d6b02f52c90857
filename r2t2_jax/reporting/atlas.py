"""The inspection of a loss atlas in words and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from r2t2_jax.evaluation.atlas_inspection import AtlasInspection, Chosen, SourcePoint

Table = tuple[tuple[str, ...], Sequence[tuple[str, ...]]]
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
