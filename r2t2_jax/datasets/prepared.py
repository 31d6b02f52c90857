"""Prepared sets: where they are, which there are, and their samples.

The data folder is the environment variable R2T2_DATA, or else that of TensorFlow Datasets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.record import Source
from r2t2_jax.datasets.stored_sample import StoredSample
from r2t2_jax.datasets.subset import choose
from r2t2_jax.datasets.unit import VERSION, Unit
from r2t2_jax.errors import R2T2Error

VARIABLE = "R2T2_DATA"


@dataclass(frozen=True)
class PreparedUnit:
    """A unit on disk: its folder's name (`val`, `val-n5000-seed0`), place and number of questions."""

    name: str
    path: Path
    count: int


def data_folder(chosen: Path | None = None) -> Path:
    """The chosen folder, R2T2_DATA, or TFDS's own."""
    if chosen is not None:
        return chosen.expanduser()
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    from tensorflow_datasets.core.constants import DATA_DIR

    return Path(DATA_DIR).expanduser()


def prepared_units(source: Source, data_dir: Path) -> list[PreparedUnit]:
    """What of a set is prepared, by name."""
    units = []
    for path in sorted((data_dir / f"r2t2_{source.name}").glob(f"*/{VERSION}")):
        try:
            count = len(_metadata(path)["ids"])
        except R2T2Error:
            continue
        units.append(PreparedUnit(path.parent.name, path, count))
    return units


def load_prepared(source: Source, split: str, n: int | None, seed: int, data_dir: Path | None = None) -> list[Sample]:
    """Samples of a prepared split, images still encoded: all, or n chosen by `seed`.

    The same n and seed take the same questions whether the whole split was prepared or that subset alone.

    Raises:
        R2T2Error: neither is prepared, or what is there cannot be read.
    """
    data_dir = data_folder(data_dir)
    split = split or (source.splits[0] if source.splits else "")
    units = {unit.name: unit for unit in prepared_units(source, data_dir)}
    whole, part = Unit(split).name, Unit(split, n, seed).name
    if whole in units:
        path = units[whole].path
        return _read(path, choose(_metadata(path)["ids"], n, seed, source.group))
    if part in units:
        return _read(units[part].path, list(range(units[part].count)))
    raise _not_prepared(source, data_dir, units, split, "" if n is None else f", n={n}, seed={seed}")


def glance(source: Source, split: str, n: int, seed: int, data_dir: Path | None = None) -> list[Sample]:
    """N questions of whatever part of a split is prepared, the largest: to look at, not to evaluate on.

    Raises:
        R2T2Error: no part of it is prepared, or what is there cannot be read.
    """
    data_dir = data_folder(data_dir)
    split = split or (source.splits[0] if source.splits else "")
    units = {unit.name: unit for unit in prepared_units(source, data_dir)}
    whole = Unit(split).name
    parts = [unit for name, unit in units.items() if name == whole or name.startswith(f"{whole}-n")]
    if not parts:
        raise _not_prepared(source, data_dir, units, split)
    largest = max(parts, key=lambda unit: unit.count)
    return _read(largest.path, choose(_metadata(largest.path)["ids"], n, seed, source.group))


def _not_prepared(
    source: Source, data_dir: Path, units: Mapping[str, PreparedUnit], split: str, part: str = ""
) -> R2T2Error:
    there = f"; prepared: {', '.join(units)}" if units else ""
    return R2T2Error(
        f"{source.name} is not prepared in {data_dir} (split {split!r}{part}){there}; run: "
        f"r2t2 datasets prepare {source.name} --manual-dir FOLDER --split {split}"
    )


def _read(path: Path, rows: list[int]) -> list[Sample]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        (name,) = builder.info.splits
        stored = builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
        examples = stored.__getitems__(rows)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise R2T2Error(f"cannot read the prepared set {path}: {error}; remove that folder and prepare it") from error
    return [_sample(example) for example in examples]


def _sample(example: Mapping[str, Any]) -> StoredSample:
    from r2t2_jax.datasets.builder import LISTS, TEXTS

    fields: dict[str, Any] = {name: example[name].decode() for name in TEXTS}
    fields |= {name: tuple(text.decode() for text in example[name]) for name in LISTS}
    return StoredSample(example["image"], **fields)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
        return {"ids": list(content["ids"]), "skipped": list(content["skipped"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"cannot read the prepared set {path}: {error}; remove that folder and prepare it") from error
