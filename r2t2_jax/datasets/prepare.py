"""Converts the official files of a dataset to prepared splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.datasets.files import MissingFile
from r2t2_jax.datasets.prepared import PreparedSplit, SplitSelection, list_prepared_splits
from r2t2_jax.datasets.record import DatasetSpec
from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class PrepareResult:
    """The result for one split.

    Args:
        split: name of the split.
        prepared: the split on disk, `None` if an official file is missing.
        skipped: the causes why records were left out.
        already_prepared: the split existed before, and nothing was done.
        missing: the error that names the missing file; empty if there is none.
    """

    split: str
    prepared: PreparedSplit | None = None
    skipped: tuple[str, ...] = ()
    already_prepared: bool = False
    missing: str = ""


def prepare(
    dataset: DatasetSpec,
    manual_dir: Path,
    data_dir: Path,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Iterator[PrepareResult]:
    """Prepare one split, or each split whose official files exist.

    Args:
        dataset: the dataset.
        manual_dir: folder of its official files.
        data_dir: folder of the prepared datasets.
        split: name of the split; `None` for all.
        n: number of questions per split; `None` for all.
        seed: seed of the choice of n questions.
        skip_bad: leave out invalid records instead of raising.

    Raises:
        R2T2Error: no split can be prepared, a file is malformed, or `n` or `seed` is out of range.
        InvalidRecordError: a record or its image is invalid and `skip_bad` is not set.
    """
    from r2t2_jax.datasets.split_builder import build_split

    if n is not None and n < 1:
        raise R2T2Error(f"the number of questions must be at least 1, not {n}")
    if seed < 0:
        raise R2T2Error(f"the seed must not be negative: {seed}")
    splits = [split] if split is not None else list(dataset.splits) or [""]
    missing = []
    for name in splits:
        selection = SplitSelection(name, n, seed)
        existing = _find(dataset, data_dir, selection.name)
        if existing is not None:
            yield PrepareResult(name, existing, already_prepared=True)
            continue
        try:
            skipped = build_split(dataset, selection, manual_dir, skip_bad, data_dir)
        except MissingFile as error:
            missing.append(error)
            if len(missing) == len(splits):
                raise missing[0] from error
            yield PrepareResult(name, missing=str(error))
            continue
        yield PrepareResult(name, _find(dataset, data_dir, selection.name), tuple(skipped))


def _find(dataset: DatasetSpec, data_dir: Path, name: str) -> PreparedSplit | None:
    return next((prepared for prepared in list_prepared_splits(dataset, data_dir) if prepared.name == name), None)
