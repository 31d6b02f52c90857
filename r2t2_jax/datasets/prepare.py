"""From official files to prepared sets, split by split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.datasets.files import MissingFile
from r2t2_jax.datasets.prepared import PreparedSplit, PreparedUnit, prepared_units
from r2t2_jax.datasets.record import Source
from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Outcome:
    """What came of a split.

    `unit` is what is prepared now, and `None` where an official file is missing, which `missing` tells. `skipped` names
    the records that were left out. `was_there` says that it had been prepared before and nothing was done.
    """

    split: str
    unit: PreparedUnit | None = None
    skipped: tuple[str, ...] = ()
    was_there: bool = False
    missing: str = ""


def prepare(
    source: Source,
    manual_dir: Path,
    data_dir: Path,
    split: str | None = None,
    n: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> Iterator[Outcome]:
    """Prepare a split, or every split whose files are there, one after the other.

    Args:
        source: the set.
        manual_dir: the folder of its official files.
        data_dir: where prepared sets are.
        split: which one; `None` for all.
        n: how many questions of it; `None` for all.
        seed: which ones.
        skip_bad: leave out records that cannot be used, rather than stop at the first.

    Raises:
        R2T2Error: no split can be prepared, a file is wrong, or a number is.
        BadRecord: a record or its image cannot be used and `skip_bad` is not set.
    """
    from r2t2_jax.datasets.prepared import build

    if n is not None and n < 1:
        raise R2T2Error(f"the number of questions must be at least 1, not {n}")
    if seed < 0:
        raise R2T2Error(f"the seed must not be negative, as {seed} is")
    splits = [split] if split is not None else list(source.splits) or [""]
    missing = []
    for name in splits:
        unit = PreparedSplit(name, n, seed)
        there = _find(source, data_dir, unit.name)
        if there is not None:
            yield Outcome(name, there, was_there=True)
            continue
        try:
            skipped = build(source, unit, manual_dir, skip_bad, data_dir)
        except MissingFile as error:
            missing.append(error)
            if len(missing) == len(splits):
                raise missing[0] from error
            yield Outcome(name, missing=str(error))
            continue
        yield Outcome(name, _find(source, data_dir, unit.name), tuple(skipped))


def _find(source: Source, data_dir: Path, name: str) -> PreparedUnit | None:
    return next((unit for unit in prepared_units(source, data_dir) if unit.name == name), None)
