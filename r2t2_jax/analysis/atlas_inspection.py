"""What a loss atlas says of its bank: the routing each source likes, how well neighbours choose for a left-out one.

No model is asked: everything is read off the table. A reference counts as likely right at a point where its answer's
tokens have a geometric mean probability above one half, that is a bounded loss below one half.

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

LOOKED_AT = 1000  # references, evenly spaced over the bank
NEIGHBORS = (1, 5, 10, 20, 50)
FRACTIONS = (8, 4, 2, 1)  # of the bank: an eighth, a quarter, ...
LIKELY = 0.5
Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class SourcePoint:
    """The point at which the references of a source, or of a kind of question, lose least; weights: means of layers."""

    source: str
    rows: int
    point: int
    weights: tuple[float, ...]
    loss: float
    loss_elsewhere: float  # mean loss of the other sources at that point; NaN where there are none


@dataclass(frozen=True)
class Chosen:
    """How left-out references fare where their neighbours send them, with so many points, neighbours, references."""

    points: int
    k: int
    references: int
    likely_right: float
    loss: float


@dataclass(frozen=True)
class AtlasInspection:
    """What `r2t2 bank inspect` tells of an atlas.

    `spearman` is the rank correlation over the points between a reference's own loss and its neighbourhood's, the mean
    over references with the half width of its 95 % interval. `fixed` is the best single point for everybody, `best` the
    point each reference would choose for itself.
    """

    experts: tuple[str, ...]
    points: int
    rows: int
    looked_at: int
    k: int
    sources: tuple[SourcePoint, ...]
    spearman: float
    spearman_half_width: float
    fixed: Chosen
    best: Chosen
    by_points: tuple[Chosen, ...]
    by_neighbors: tuple[Chosen, ...]
    by_references: tuple[Chosen, ...]


def inspect_atlas(bank: ReferenceBank, k: int = 20) -> AtlasInspection:
    """Look into the atlas of a bank.

    Args:
        bank: with an atlas.
        k: neighbours that choose, where nothing else is said; fewer in a bank of fewer.

    Raises:
        R2T2Error: the bank has no atlas.
    """
    atlas = bank.require_atlas()
    rows = np.unique(np.linspace(0, len(bank) - 1, min(LOOKED_AT, len(bank))).astype(int))
    own, embeddings = atlas.rows(rows), np.asarray(bank.embeddings[rows])
    k = min(k, len(rows) - 1)
    seen = leave_one_out(own, embeddings, k)
    rho = rank_correlation(own, seen)
    count = own.shape[1]

    def part(every: int) -> Chosen:
        some = np.arange(0, len(rows), every)
        near = min(k, len(some) - 1)
        return _chosen(own[some], leave_one_out(own[some], embeddings[some], near), near)

    return AtlasInspection(
        experts=atlas.experts,
        points=count,
        rows=len(bank),
        looked_at=len(rows),
        k=k,
        sources=_by_source(bank, atlas.rows(np.arange(len(bank))), atlas.points),
        spearman=float(rho.mean()),
        spearman_half_width=float(Z * rho.std() / np.sqrt(len(rho))),
        fixed=_chosen(own, np.broadcast_to(own.mean(axis=0), own.shape), 0),
        best=_chosen(own, own, 0),
        # Points stand in the order in which they were chosen, so the first few are the atlas of so many points.
        by_points=tuple(_chosen(own[:, :g], seen[:, :g], k) for g in _doubled(count)),
        by_neighbors=tuple(
            _chosen(own, leave_one_out(own, embeddings, near), near) for near in NEIGHBORS if near < len(rows)
        ),
        by_references=tuple(part(every) for every in FRACTIONS if len(rows) // every > 2),
    )


def _doubled(count: int) -> list[int]:
    return [*(2**i for i in range(1, count.bit_length()) if 2**i < count), count]


def _chosen(own: Float[np.ndarray, "n G"], seen: Float[np.ndarray, "n G"], k: int) -> Chosen:
    n, points = own.shape
    paid = own[np.arange(n), seen.argmin(axis=1)]
    return Chosen(points, k, n, float((paid < LIKELY).mean()), float(paid.mean()))


def _by_source(
    bank: ReferenceBank, losses: Float[np.ndarray, "N G"], points: Float[np.ndarray, "G L E"]
) -> tuple[SourcePoint, ...]:
    names = np.array([str(record.get("source") or "") for record in bank.records])
    if len(set(names)) == 1:  # one set of questions: what tells them apart is their kind
        names = np.array([str(record.get("category") or names[0]) for record in bank.records])
    groups = {str(name): np.flatnonzero(names == name) for name in np.unique(names)}
    return tuple(_liked(name, rows, losses, points) for name, rows in groups.items())


def _liked(
    name: str, rows: Int[np.ndarray, "n"], losses: Float[np.ndarray, "N G"], points: Float[np.ndarray, "G L E"]
) -> SourcePoint:
    means = losses[rows].mean(axis=0)
    point = int(means.argmin())
    others = np.delete(losses[:, point], rows)
    weights: Sequence[float] = points[point].mean(axis=0).tolist()
    elsewhere = float(others.mean()) if len(others) else float("nan")
    return SourcePoint(name, len(rows), point, tuple(weights), float(means[point]), elsewhere)
