"""Levenshtein's distance between two texts."""

from __future__ import annotations


def edit_distance(first: str, second: str) -> int:
    """The least number of characters to insert, delete or replace that turns one text into the other."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]
