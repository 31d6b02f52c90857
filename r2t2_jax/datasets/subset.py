"""Which questions a subset takes: the same ones wherever a set of that size is drawn by that seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np


def choose(ids: Sequence[str], n: int | None, seed: int, group: Callable[[str], str] = str) -> list[int]:
    """Row numbers of at most n questions, in order.

    Groups of questions that are scored together are drawn as a whole, and one that no longer fits is passed over; so
    with groups fewer than n may be taken.

    Args:
        ids: the questions' ids.
        n: how many; `None` for all.
        seed: which ones.
        group: from an id to its group; by default each question is its own.
    """
    if n is None or n >= len(ids):
        return list(range(len(ids)))
    groups = defaultdict(list)
    for row, name in enumerate(ids):
        groups[group(name)].append(row)
    members = list(groups.values())
    chosen: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(members)):
        if len(chosen) + len(members[i]) <= n:
            chosen += members[i]
        if len(chosen) == n:
            break
    return sorted(chosen)
