"""Candidates of exact search in the memory of a CPU: products of numpy's BLAS with a running threshold.

A sort of all scores takes as long as the product that computes them. Here one pass takes the maxima of groups of
scores. The k-th largest maximum so far bounds the k-th best score from below, and only groups that reach it are looked
at. Scores are float32, so a bound on their rounding widens the threshold: the candidates hold every reference that may
be among the k nearest, equal ones included, and ranking by distances in double precision decides.

Axis letters: B queries, K neighbors, N bank size, M embedding size, R rows of a block, G groups, P pairs of a query and
a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

GROUP, MERGED = 16, 4  # scores of a group, and groups of which one maximum bounds the k-th best score
SPARSE = 8  # times as many maxima as neighbors, where there are enough rows: the bound is then close to the score
ERROR = 1e-6  # of |q| |x| and of |x|^2 / 2: bounds the rounding of a score
SMALL = 1 << 24  # multiplications of a product that one thread computes in about half a millisecond
ONE_THREAD = 1 << 17  # multiplications of a product that OpenBLAS computes in one thread, in the least time for each
MANY = 64  # a query with more pairs than this and 2 k has equal references


def half_squares(embeddings: Float[np.ndarray, "N M"], block: int) -> Float[np.ndarray, "N"]:
    """|x|^2 / 2 of every row, in float32, computed `block` rows at a time."""
    parts = (embeddings[first : first + block].astype(np.float32) for first in range(0, len(embeddings), block))
    return np.concatenate([np.einsum("rm,rm->r", part, part) / 2 for part in parts])


@dataclass(frozen=True)
class Pairs:
    """Candidates: pair p is row `row[p]` for query `query[p]`; they are sorted by query and row.

    Args:
        query: position of the query.
        row: index of the reference.
        crowded: queries with too many candidates, which have no pairs.
        floor: a score that the k nearest reach, for every query.
    """

    query: Int[np.ndarray, "P"]
    row: Int[np.ndarray, "P"]
    crowded: Bool[np.ndarray, "B"]
    floor: Float[np.ndarray, "B"]


@dataclass(frozen=True)
class HostScores:
    """Scores x.q - |x|^2 / 2, or x.q, of references in the memory of the host; larger is nearer.

    Args:
        embeddings: of the references.
        halves: |x|^2 / 2 of every reference.
        dot: whether the score is x.q.
    """

    embeddings: Float[np.ndarray, "N M"]
    halves: Float[np.ndarray, "N"]
    dot: bool

    @cached_property
    def constant(self) -> float:
        """A number that is subtracted of every x.q in place of |x|^2 / 2: 0 for `dot`, 1/2 for unit vectors."""
        return 0.0 if self.dot else float(self.halves.min() + self.halves.max()) / 2

    @cached_property
    def spread(self) -> float:
        """The largest difference of two |x|^2 / 2; 0 for `dot`."""
        return 0.0 if self.dot else float(np.ptp(self.halves))

    @cached_property
    def subtracts(self) -> bool:
        """Whether |x|^2 / 2 differs between rows by more than scores are rounded: then it is subtracted of each row."""
        return self.spread > 2 * ERROR * float(self.halves.max())

    def errors(
        self, lengths: Float[np.ndarray, "*pairs"], halves: Float[np.ndarray, "*pairs"]
    ) -> Float[np.ndarray, "*pairs"]:
        """Bounds of the difference between computed and exact scores, from |q| and |x|^2 / 2."""
        omitted = halves * ERROR if self.subtracts else self.spread / 2
        return ERROR * lengths * np.sqrt(2 * halves) + omitted

    def candidates(self, queries: Float[np.ndarray, "B M"], k: int, block: int) -> Pairs:
        """All pairs that may be among the k nearest of a query, computed `block` rows at a time."""
        n, b, subtracts = len(self.embeddings), len(queries), self.subtracts
        size = min(block, n)
        group = max(1, min(GROUP, size // (SPARSE * k)))
        merged = max(1, min(MERGED, size // (group * SPARSE * k)))
        step = group * merged
        lengths = np.sqrt(np.einsum("bm,bm->b", queries, queries))
        buffer = np.empty((-(-size // step) * step, b), np.float32)
        best = np.full((k, b), -np.inf, np.float32)  # bounds of the k best scores from below
        chosen = _Chosen(MANY + 2 * k, b)
        for first in range(0, n, block):
            rows = self.embeddings[first : first + block].astype(np.float32, copy=False)
            halves, end = self.halves[first : first + block], -(-len(rows) // step) * step
            scores = buffer[:end]
            _multiply(rows, queries, scores[: len(rows)])
            scores[len(rows) :] = -np.inf
            if subtracts:
                scores[: len(rows)] -= halves[:, None]
            maxima = scores.reshape(group, end // group, b).max(axis=0)  # [G, B]
            error = self.errors(lengths, halves.max()).astype(np.float32)
            bounds = maxima.reshape(merged, end // step, b).max(axis=0) - error
            best = np.partition(np.concatenate([best, bounds]), len(bounds), axis=0)[len(bounds) :]
            limit = np.where(chosen.crowded, np.inf, best[0] - error).astype(np.float32)
            query, row, score = _reaching(scores, maxima, limit)
            chosen.add(query, row + first, score + self.errors(lengths[query], halves[row]), best[0])
        constant = 0.0 if subtracts else self.constant
        floor = best[0] - self.errors(lengths, self.halves.max()) - constant
        query, row = chosen.pairs(best[0])
        order = np.argsort(query * n + row)
        return Pairs(query[order], row[order], chosen.crowded, floor)


def _multiply(
    rows: Float[np.ndarray, "R M"], queries: Float[np.ndarray, "B M"], scores: Float[np.ndarray, "R B"]
) -> None:
    """Write x.q of every row and query to `scores`; a small product in parts, for which OpenBLAS starts no threads.

    After a product on several threads OpenBLAS's threads spin for milliseconds, on cores that the model needs.
    """
    work = rows.size * len(queries)
    if work <= SMALL and len(queries) == 1:
        np.einsum("rm,m->r", rows, queries[0], out=scores[:, 0])
        return
    step = max(1, ONE_THREAD // (rows.shape[1] * len(queries))) if work <= SMALL else len(rows)
    for first in range(0, len(rows), step):
        np.matmul(rows[first : first + step], queries.T, out=scores[first : first + step])


def _reaching(
    scores: Float[np.ndarray, "R B"], maxima: Float[np.ndarray, "G B"], limit: Float[np.ndarray, "B"]
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Query, row and value of every score that reaches the query's limit, by group; infinite scores are padding."""
    (groups, b), group = maxima.shape, len(scores) // len(maxima)
    limit = np.maximum(limit, np.finfo(np.float32).min)
    place = np.flatnonzero(maxima >= limit)  # in the flat [G, B]
    places = place + np.arange(group)[:, None] * (groups * b)  # in the flat [R, B]; row r is in group r mod G
    query, values = place % b, scores.reshape(-1).take(places, mode="clip")
    reached = np.flatnonzero(values >= limit[query])
    return query[reached % max(1, len(query))], places.reshape(-1)[reached] // b, values.reshape(-1)[reached]


class _Chosen:
    """The pairs so far, with the largest score that each may have; a query with more than `most` is crowded."""

    def __init__(self, most: int, queries: int) -> None:
        self._most, self._count = most, 0
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.crowded = np.zeros(queries, bool)

    def add(
        self,
        query: Int[np.ndarray, "P"],
        row: Int[np.ndarray, "P"],
        score: Float[np.ndarray, "P"],
        least: Float[np.ndarray, "B"],
    ) -> None:
        """Add pairs; if they become many, drop those whose score is below `least` and those of crowded queries."""
        self._parts.append((query, row, score))
        self._count += len(query)
        if self._count > self._most * len(self.crowded):
            query, _ = self.pairs(least)
            self.crowded |= np.bincount(query, minlength=len(self.crowded)) > self._most
            self._count = len(self.pairs(least)[0])

    def pairs(self, least: Float[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
        """Queries and rows of the pairs whose score may reach `least`; the others are dropped."""
        query, row, score = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        passing = (score >= least[query]) & ~self.crowded[query]
        self._parts = [(query[passing], row[passing], score[passing])]
        return query[passing], row[passing]
