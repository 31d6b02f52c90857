"""Checks the records of a split before anything is written, and chooses a random subset of them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from r2t2_jax.datasets.record import DatasetSpec, InvalidRecord, Record
from r2t2_jax.errors import R2T2Error


class InvalidRecordError(R2T2Error):
    """A single record is invalid; other records of the same file may be valid."""


@dataclass(frozen=True)
class ValidatedSplit:
    """The valid records of a split in the official order, and the causes why others were left out."""

    records: list[Record]
    invalid: list[str]


def read_split(
    dataset: DatasetSpec, folder: Path, split: str, skip_bad: bool = False, images: bool = True
) -> ValidatedSplit:
    """Read and check all records of a split.

    Args:
        dataset: the dataset.
        folder: folder of the official files.
        split: name of the split.
        skip_bad: leave out invalid records instead of raising.
        images: check that image files exist. They are not opened here.

    Raises:
        R2T2Error: unknown split, a missing or malformed file, or no valid record.
        InvalidRecordError: a record is invalid and `skip_bad` is not set.
    """
    if dataset.splits and split not in dataset.splits:
        raise R2T2Error(f"{dataset.name} has no labeled split {split!r}; it has {', '.join(dataset.splits)}")
    items = records_below(folder, dataset.read(folder, split))
    validated = validate_records(_check_images(items) if images else items, skip_bad)
    if not validated.records:
        first = f": {validated.invalid[0]}" if validated.invalid else ""
        raise R2T2Error(f"{dataset.name} has no usable record in split {split!r} of {folder}{first}")
    return validated


def records_below(folder: Path, items: Iterable[Record | InvalidRecord]) -> Iterator[Record | InvalidRecord]:
    """The items, with an `InvalidRecord` in place of a record whose image is not below the folder."""
    top = os.path.abspath(folder)
    for item in items:
        if isinstance(item, Record) and isinstance(item.image, Path):
            image = os.path.abspath(item.image)
            if os.path.commonpath([top, image]) != top:
                item = InvalidRecord(f"{item.where}: image {item.image} is not below {folder}; move the images there")
        yield item


def validate_records(items: Iterable[Record | InvalidRecord], skip_bad: bool = False) -> ValidatedSplit:
    """Separate valid from invalid records; a record with a repeated id is invalid.

    Raises:
        InvalidRecordError: a record is invalid and `skip_bad` is not set.
    """
    records: list[Record] = []
    invalid: list[str] = []
    ids: set[str] = set()
    for item in items:
        if isinstance(item, Record) and item.id in ids:
            item = InvalidRecord(f"{item.where}: id {item.id!r} occurs twice")
        if isinstance(item, Record):
            ids.add(item.id)
            records.append(item)
        elif skip_bad:
            invalid.append(item.cause)
        else:
            raise InvalidRecordError(item.cause)
    return ValidatedSplit(records, invalid)


def choose_records(records: list[Record], dataset: DatasetSpec, n: int | None, seed: int) -> list[Record]:
    """At most n records, chosen by `seed`, in order; see `choose_rows`.

    Raises:
        R2T2Error: n is smaller than every group of questions.
    """
    rows = choose_rows([record.id for record in records], n, seed, dataset.group)
    if not rows:
        raise R2T2Error(f"{dataset.name}: n = {n} is less than one group of questions that are scored together")
    return [records[row] for row in rows]


def choose_rows(ids: Sequence[str], n: int | None, seed: int, group: Callable[[str], str] = str) -> list[int]:
    """Row numbers of at most n questions, in order.

    Groups of questions that are scored together are drawn as a whole, and a group that no longer fits is skipped, so
    that the result may have fewer than n rows.

    Args:
        ids: the questions' ids.
        n: how many; `None` for all.
        seed: seed of the draw.
        group: maps an id to its group; by default every question is its own group.
    """
    if n is None or n >= len(ids):
        return list(range(len(ids)))
    groups = defaultdict(list)
    for row, name in enumerate(ids):
        groups[group(name)].append(row)
    members = list(groups.values())
    rows: list[int] = []
    for i in np.random.default_rng(seed).permutation(len(members)):
        if len(rows) + len(members[i]) <= n:
            rows += members[i]
        if len(rows) == n:
            break
    return sorted(rows)


def _check_images(items: Iterable[Record | InvalidRecord]) -> Iterator[Record | InvalidRecord]:
    """The items, with an `InvalidRecord` in place of a record whose image file does not exist."""
    exists = cache(Path.is_file)  # many questions are about the same image
    for item in items:
        if isinstance(item, Record) and isinstance(item.image, Path) and not exists(item.image):
            item = InvalidRecord(f"{item.where}: cannot read image {item.image}: it does not exist")
        yield item
