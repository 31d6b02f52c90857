"""Tests whether the paper's ordering of a table's rows holds, with every pair of rows on the same samples.

For each pair of rows with different averages in the paper, the difference of the measured averages gets an interval
from a paired bootstrap: samples are resampled within each test set, the same for all rows. The intervals hold jointly
at 95 % (Bonferroni: each at 1 - 0.05 / pairs), so that a table with many rows does not show a pair by chance. A pair is

    shown     the interval lies on the paper's side of zero
    reversed  it lies on the other side
    open      it contains zero: the number of questions does not decide

and the table as a whole `holds` (all pairs shown), is `partly` shown (some, none reversed), `reversed` (some reversed,
none shown), `mixed` (some shown, some reversed) or `open` (none shown or reversed).

Axis letters: B samples of a test set, R rows of a table, D bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

RESAMPLES = 4000
LEVEL = 0.05
DIGITS = 2


def averages(values: Sequence[Float[np.ndarray, "B R"]]) -> Float[np.ndarray, "R"]:
    """The mean over test sets of each row's mean over samples."""
    return np.mean([value.mean(axis=0) for value in values], axis=0)


def resampled_averages(values: Sequence[Float[np.ndarray, "B R"]], seed: int = 0) -> Float[np.ndarray, "D R"]:
    """The averages on samples drawn with replacement within each test set."""
    rng = np.random.default_rng(seed)
    means = []
    for value in values:
        n = len(value)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # [D, B]
        means.append(counts @ value / n)
    return np.mean(means, axis=0)


def trend(names: Sequence[str], paper: Mapping[str, float], values: Sequence[Float[np.ndarray, "B R"]]) -> dict | None:
    """Test the paper's ordering; `None` if it orders fewer than two rows.

    Args:
        names: names of the R rows.
        paper: the paper's averages by row, for the rows that have one.
        values: scores of each test set's samples in every row.
    """
    indices = [i for i, name in enumerate(names) if name in paper]
    pairs = [
        (i, j) if paper[names[i]] > paper[names[j]] else (j, i)
        for i, j in combinations(indices, 2)
        if paper[names[i]] != paper[names[j]]
    ]
    if not pairs:
        return None
    better, worse = np.array(pairs).T
    measured, resampled = averages(values), resampled_averages(values)
    differences = resampled[:, better] - resampled[:, worse]  # [D, pairs]
    tail = LEVEL / len(pairs) / 2
    low, high = np.quantile(differences, [tail, 1 - tail], axis=0)
    results = [
        {
            "better": names[i],
            "worse": names[j],
            "paper_points": round(paper[names[i]] - paper[names[j]], DIGITS),
            "points": round(100 * float(measured[i] - measured[j]), DIGITS),
            "interval": [round(100 * float(bound), DIGITS) for bound in (low[number], high[number])],
            "verdict": "shown" if low[number] > 0 else "reversed" if high[number] < 0 else "open",
        }
        for number, (i, j) in enumerate(pairs)
    ]
    counts = {word: sum(pair["verdict"] == word for pair in results) for word in ("shown", "reversed", "open")}
    tau = np.sign(differences).mean(axis=1)
    return {
        "verdict": verdict(counts),
        **counts,
        "tau": round(float(np.sign(measured[better] - measured[worse]).mean()), DIGITS),
        "tau_ci95": [round(float(bound), DIGITS) for bound in np.quantile(tau, [LEVEL / 2, 1 - LEVEL / 2])],
        "pairs": results,
    }


def verdict(counts: Mapping[str, int]) -> str:
    """The verdict on a whole table from the number of pairs that are shown, reversed and open."""
    if counts["shown"] and not counts["reversed"]:
        return "partly" if counts["open"] else "holds"
    if counts["reversed"]:
        return "mixed" if counts["shown"] else "reversed"
    return "open"
