"""Statistics of a loss atlas: the best point of each source, and how well neighbors choose points by leave-one-out.

They are computed from the table of losses, without the model. A reference counts as likely right at a point where the
geometric mean probability of its answer's tokens is above one half, that is, its bounded loss is below one half.

Axis letters: N references, n of them, G points, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.analysis.loss_landscape import rank_correlation
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.build_atlas import leave_one_out

MAX_REFERENCES = 1000  # evenly spaced over the bank
NEIGHBORS = (1, 5, 10, 20, 50)
FRACTIONS = (8, 4, 2, 1)  # of the bank: an eighth, a quarter, ...
LIKELY_RIGHT = 0.5  # bounded loss
Z = 1.96  # for a 95 % interval


@dataclass(frozen=True)
class SourcePoint:
    """The point with the lowest mean loss for a source or category; `weights` are means over layers."""

    source: str
    rows: int
    point: int
    weights: tuple[float, ...]
    loss: float
    loss_elsewhere: float  # mean loss of the other sources at that point; NaN where there are none


@dataclass(frozen=True)
class PointChoice:
    """Result of choosing a point for left-out references, with given numbers of points, neighbors and references."""

    points: int
    k: int
    references: int
    likely_right: float
    loss: float


@dataclass(frozen=True)
class AtlasInspection:
    """The statistics of an atlas that `r2t2 bank inspect` prints.

    `spearman` is the rank correlation over the points between the loss of a reference and that of its neighborhood:
    the mean over references, with the half width of its 95 % interval. `fixed` is the best single point for all
    references, `best` the point with each reference's own lowest loss.
    """

    experts: tuple[str, ...]
    mode: str
    points: int
    rows: int
    looked_at: int
    k: int
    sources: tuple[SourcePoint, ...]
    spearman: float
    spearman_half_width: float
    fixed: PointChoice
    best: PointChoice
    by_points: tuple[PointChoice, ...]
    by_neighbors: tuple[PointChoice, ...]
    by_references: tuple[PointChoice, ...]


def inspect_atlas(bank: ReferenceBank, k: int = 20) -> AtlasInspection:
    """Statistics of a bank's atlas.

    Args:
        bank: a bank with an atlas.
        k: number of neighbors, where it is not varied; at most the number of other references.

    Raises:
        R2T2Error: the bank has no atlas.
    """
    atlas = bank.require_atlas()
    rows = np.unique(np.linspace(0, len(bank) - 1, min(MAX_REFERENCES, len(bank))).astype(int))
    own, embeddings = atlas.rows(rows), np.asarray(bank.embeddings[rows])
    k = min(k, len(rows) - 1)
    neighborhood = leave_one_out(own, embeddings, k)
    rho = rank_correlation(own, neighborhood)
    count = own.shape[1]

    def subset(every: int) -> PointChoice:
        part = np.arange(0, len(rows), every)
        count = min(k, len(part) - 1)
        return _choose(own[part], leave_one_out(own[part], embeddings[part], count), count)

    return AtlasInspection(
        experts=atlas.experts,
        mode=atlas.mode,
        points=count,
        rows=len(bank),
        looked_at=len(rows),
        k=k,
        sources=_by_source(bank, atlas.rows(np.arange(len(bank))), atlas.points),
        spearman=float(rho.mean()),
        spearman_half_width=float(Z * rho.std() / np.sqrt(len(rho))),
        fixed=_choose(own, np.broadcast_to(own.mean(axis=0), own.shape), 0),
        best=_choose(own, own, 0),
        # Points are in the order in which they were chosen: the first g are the atlas of g points.
        by_points=tuple(_choose(own[:, :g], neighborhood[:, :g], k) for g in _powers_of_two(count)),
        by_neighbors=tuple(
            _choose(own, leave_one_out(own, embeddings, number), number) for number in NEIGHBORS if number < len(rows)
        ),
        by_references=tuple(subset(every) for every in FRACTIONS if len(rows) // every > 2),
    )


def _powers_of_two(count: int) -> list[int]:
    return [*(2**i for i in range(1, count.bit_length()) if 2**i < count), count]


def _choose(own: Float[np.ndarray, "n G"], neighborhood: Float[np.ndarray, "n G"], k: int) -> PointChoice:
    n, points = own.shape
    loss = own[np.arange(n), neighborhood.argmin(axis=1)]
    return PointChoice(points, k, n, float((loss < LIKELY_RIGHT).mean()), float(loss.mean()))


def _by_source(
    bank: ReferenceBank, losses: Float[np.ndarray, "N G"], points: Float[np.ndarray, "G L E"]
) -> tuple[SourcePoint, ...]:
    names = np.array([str(record.get("source") or "") for record in bank.records])
    if len(set(names)) == 1:  # a single source: group by category
        names = np.array([str(record.get("category") or names[0]) for record in bank.records])
    groups = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return tuple(_best_point(name, rows, losses, points) for name, rows in groups.items())


def _best_point(
    name: str, rows: Int[np.ndarray, "n"], losses: Float[np.ndarray, "N G"], points: Float[np.ndarray, "G L E"]
) -> SourcePoint:
    means = losses[rows].mean(axis=0)
    point = int(means.argmin())
    others = np.delete(losses[:, point], rows)
    weights: Sequence[float] = points[point].mean(axis=0).tolist()
    elsewhere = float(others.mean()) if len(others) else float("nan")
    return SourcePoint(name, len(rows), point, tuple(weights), float(means[point]), elsewhere)
