"""A split's records, checked for what no single record shows, before anything is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from r2t2_jax.datasets.record import Bad, Record, Source
from r2t2_jax.errors import R2T2Error


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


class BadRecord(R2T2Error):
    """A single record cannot be used; the rest of its file may be."""


@dataclass(frozen=True)
class Survey:
    """The usable records of a split, in the official order, and what is wrong with the others."""

    records: list[Record]
    bad: list[str]


def survey(source: Source, folder: Path, split: str, skip_bad: bool = False, images: bool = True) -> Survey:
    """Read all records of a split. Image files are looked for, unless `images` is unset, but not opened yet.

    Raises:
        R2T2Error: there is no such split, a file is missing or wrong, or no record is left.
        BadRecord: a record is bad and `skip_bad` is not set.
    """
    if source.splits and split not in source.splits:
        raise R2T2Error(f"{source.name} has no labelled split {split!r}; it has {', '.join(source.splits)}")
    items = source.read(folder, split)
    found = validate_records(_with_image(items) if images else items, skip_bad)
    if not found.records:
        first = f": {found.bad[0]}" if found.bad else ""
        raise R2T2Error(f"{source.name} has no usable record in split {split!r} of {folder}{first}")
    return found


def _with_image(items: Iterable[Record | Bad]) -> Iterator[Record | Bad]:
    """The items; a record whose image file is not there is bad."""
    is_there = cache(Path.is_file)  # many questions are about the same image
    for item in items:
        if isinstance(item, Record) and isinstance(item.image, Path) and not is_there(item.image):
            item = Bad(f"{item.where}: cannot read image {item.image}: it is not there")
        yield item


def validate_records(items: Iterable[Record | Bad], skip_bad: bool = False) -> Survey:
    """Part good from bad; a record whose id came before is bad.

    Raises:
        BadRecord: a record is bad and `skip_bad` is not set.
    """
    records: list[Record] = []
    bad: list[str] = []
    seen: set[str] = set()
    for item in items:
        if isinstance(item, Record) and item.id in seen:
            item = Bad(f"{item.where}: id {item.id!r} stands twice")
        if isinstance(item, Record):
            seen.add(item.id)
            records.append(item)
        elif skip_bad:
            bad.append(item.cause)
        else:
            raise BadRecord(item.cause)
    return Survey(records, bad)


def subset(records: list[Record], source: Source, n: int | None, seed: int) -> list[Record]:
    """The records that a subset of that size and seed takes.

    Raises:
        R2T2Error: n has no room for a single group of questions.
    """
    rows = choose([record.id for record in records], n, seed, source.group)
    if not rows:
        raise R2T2Error(f"{source.name}: {n} has no room for one group of questions that are scored together")
    return [records[row] for row in rows]
