"""Does the paper's ordering of a table's rows hold here? Every pair of rows is tested on the same samples.

For each pair of rows that the paper tells apart, the difference of our averages gets an interval from a paired
bootstrap: samples are drawn again within each test set, the same for all rows. The intervals hold together at 95 %
(Bonferroni: each at 1 - 0.05 / pairs), so that a table of many rows is not "shown" by luck. A pair is

    shown     the interval lies on the paper's side of zero
    reversed  it lies on the other side
    open      it holds zero: so many questions do not tell

and the table as a whole `holds` (all pairs shown), is `partly` shown (some, none reversed), `reversed` (some reversed,
none shown), `mixed` (some of either) or `open` (none of either).

Axis letters: B samples of a test set, R rows of a table, D draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

DRAWS = 4000
LEVEL = 0.05
DIGITS = 2


def averages(values: Sequence[Float[np.ndarray, "B R"]]) -> Float[np.ndarray, "R"]:
    """The mean over test sets of each row's mean over samples."""
    return np.mean([value.mean(axis=0) for value in values], axis=0)


def drawn_averages(values: Sequence[Float[np.ndarray, "B R"]], seed: int = 0) -> Float[np.ndarray, "D R"]:
    """The same on samples drawn again with replacement, within each test set."""
    rng = np.random.default_rng(seed)
    means = []
    for value in values:
        n = len(value)
        counts = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)  # [D, B]
        means.append(counts @ value / n)
    return np.mean(means, axis=0)


def trend(names: Sequence[str], paper: Mapping[str, float], values: Sequence[Float[np.ndarray, "B R"]]) -> dict | None:
    """The paper's ordering tested; `None` where it has fewer than two rows to order.

    Args:
        names: of our R rows.
        paper: the paper's averages, of the rows that it has.
        values: scores of each test set's samples in every row.
    """
    places = [i for i, name in enumerate(names) if name in paper]
    pairs = [
        (i, j) if paper[names[i]] > paper[names[j]] else (j, i)
        for i, j in combinations(places, 2)
        if paper[names[i]] != paper[names[j]]
    ]
    if not pairs:
        return None
    better, worse = np.array(pairs).T
    ours, drawn = averages(values), drawn_averages(values)
    differences = drawn[:, better] - drawn[:, worse]  # [D, pairs]
    tail = LEVEL / len(pairs) / 2
    low, high = np.quantile(differences, [tail, 1 - tail], axis=0)
    found = [
        {
            "better": names[i],
            "worse": names[j],
            "paper_points": round(paper[names[i]] - paper[names[j]], DIGITS),
            "points": round(100 * float(ours[i] - ours[j]), DIGITS),
            "interval": [round(100 * float(bound), DIGITS) for bound in (low[number], high[number])],
            "verdict": "shown" if low[number] > 0 else "reversed" if high[number] < 0 else "open",
        }
        for number, (i, j) in enumerate(pairs)
    ]
    counts = {word: sum(pair["verdict"] == word for pair in found) for word in ("shown", "reversed", "open")}
    tau = np.sign(differences).mean(axis=1)
    return {
        "verdict": verdict(counts),
        **counts,
        "tau": round(float(np.sign(ours[better] - ours[worse]).mean()), DIGITS),
        "tau_ci95": [round(float(bound), DIGITS) for bound in np.quantile(tau, [LEVEL / 2, 1 - LEVEL / 2])],
        "pairs": found,
    }


def verdict(counts: Mapping[str, int]) -> str:
    """The word for a whole table, of how many pairs are shown, reversed and open."""
    if counts["shown"] and not counts["reversed"]:
        return "partly" if counts["open"] else "holds"
    if counts["reversed"]:
        return "mixed" if counts["shown"] else "reversed"
    return "open"


def interval(values: Sequence[Float[np.ndarray, "B R"]]) -> Any:
    """95 % intervals [2, R] of the averages of several test sets, by the same draws."""
    return np.quantile(drawn_averages(values), [LEVEL / 2, 1 - LEVEL / 2], axis=0)
