"""Lists and reads prepared splits on disk; `split_builder.py` writes them.

The data folder is the environment variable R2T2_DATA, or by default that of TensorFlow Datasets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.record import DatasetSpec
from r2t2_jax.datasets.samples import StoredSample
from r2t2_jax.datasets.validate import choose_rows
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import open_json

VERSION = "1.0.0"  # of the stored fields
DATA_VARIABLE = "R2T2_DATA"
WHOLE = "whole"  # folder name of a dataset whose files name the splits themselves
TEXTS = ("id", "question", "style", "category", "split")
LISTS = ("options", "answers")
LATER_TEXTS = ("context",)  # that sets prepared by earlier versions do not have
_SPLIT_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True)
class SplitSelection:
    """A split (empty for a dataset without splits), or n of its questions chosen by a seed.

    Raises:
        R2T2Error: the split is not a valid folder name, or is one of the reserved words `all` and `whole`.
    """

    split: str
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split and (self.split in ("all", WHOLE) or not _SPLIT_NAME.fullmatch(self.split)):
            raise R2T2Error(f"{self.split!r} cannot name a split: take letters, digits, -, _ and . (not all, whole)")

    @property
    def name(self) -> str:
        """The folder name."""
        return self.stored_split + ("" if self.n is None else f"-n{self.n}-seed{self.seed}")

    @property
    def stored_split(self) -> str:
        """The name of the split on disk."""
        return self.split or WHOLE


@dataclass(frozen=True)
class PreparedSplit:
    """A prepared split on disk: folder name (`val`, `val-n5000-seed0`), path and number of questions."""

    name: str
    path: Path
    count: int


def data_folder(folder: Path | None = None) -> Path:
    """`folder` if it is passed, otherwise R2T2_DATA, otherwise the folder of TFDS."""
    if folder is not None:
        return folder.expanduser()
    if os.environ.get(DATA_VARIABLE):
        return Path(os.environ[DATA_VARIABLE]).expanduser()
    from tensorflow_datasets.core.constants import DATA_DIR

    return Path(DATA_DIR).expanduser()


def list_prepared_splits(dataset: DatasetSpec, data_dir: Path) -> list[PreparedSplit]:
    """The prepared splits of a dataset, sorted by name."""
    splits = []
    for path in sorted((data_dir / f"r2t2_{dataset.name}").glob(f"*/{VERSION}")):
        try:
            count = len(_metadata(path)["ids"])
        except R2T2Error:
            continue
        splits.append(PreparedSplit(path.parent.name, path, count))
    return splits


def load_prepared(
    dataset: DatasetSpec, split: str, n: int | None, seed: int, data_dir: Path | None = None
) -> list[Sample]:
    """Samples of a prepared split with encoded images: all, or n chosen by `seed`.

    The same n and seed choose the same questions from a prepared whole split as from a prepared subset.

    Raises:
        R2T2Error: neither is prepared, or a prepared split cannot be read.
    """
    data_dir = data_folder(data_dir)
    split = split or (dataset.splits[0] if dataset.splits else "")
    prepared = {part.name: part for part in list_prepared_splits(dataset, data_dir)}
    whole, subset = SplitSelection(split).name, SplitSelection(split, n, seed).name
    if whole in prepared:
        path = prepared[whole].path
        return _read(path, choose_rows(_metadata(path)["ids"], n, seed, dataset.group), dataset.name)
    if subset in prepared:
        return _read(prepared[subset].path, list(range(prepared[subset].count)), dataset.name)
    raise _not_prepared(dataset, data_dir, prepared, split, "" if n is None else f", n={n}, seed={seed}")


def load_preview(dataset: DatasetSpec, split: str, n: int, seed: int, data_dir: Path | None = None) -> list[Sample]:
    """N questions of the largest prepared part of a split, for display and not for evaluation.

    Raises:
        R2T2Error: no part of the split is prepared, or a prepared split cannot be read.
    """
    data_dir = data_folder(data_dir)
    split = split or (dataset.splits[0] if dataset.splits else "")
    prepared = {part.name: part for part in list_prepared_splits(dataset, data_dir)}
    whole = SplitSelection(split).name
    parts = [part for name, part in prepared.items() if name == whole or name.startswith(f"{whole}-n")]
    if not parts:
        raise _not_prepared(dataset, data_dir, prepared, split)
    largest = max(parts, key=lambda part: part.count)
    return _read(largest.path, choose_rows(_metadata(largest.path)["ids"], n, seed, dataset.group), dataset.name)


def _not_prepared(
    dataset: DatasetSpec, data_dir: Path, prepared: Mapping[str, PreparedSplit], split: str, part: str = ""
) -> R2T2Error:
    existing = f"; prepared: {', '.join(prepared)}" if prepared else ""
    return R2T2Error(
        f"{dataset.name} is not prepared in {data_dir} (split {split!r}{part}){existing}; run: "
        f"r2t2 datasets prepare {dataset.name} --manual-dir FOLDER --split {split}"
    )


def _read(path: Path, rows: list[int], dataset: str) -> list[Sample]:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        (name,) = builder.info.splits
        source = builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
        return [_sample(example, dataset) for example in source.__getitems__(rows)]
    except Exception as error:  # TFDS, protobuf and the record files raise many types
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"cannot read the prepared set {path}: {reason}; remove that folder and prepare it") from error


def _sample(example: Mapping[str, Any], dataset: str) -> StoredSample:
    fields: dict[str, Any] = {"dataset": dataset} | {name: example[name].decode() for name in TEXTS}
    fields |= {name: example[name].decode() for name in LATER_TEXTS if name in example}
    fields |= {name: tuple(text.decode() for text in example[name]) for name in LISTS}
    return StoredSample(example["image"], **fields)


def _metadata(path: Path) -> dict[str, list[str]]:
    try:
        document = open_json(path / "metadata.json")
        content = {name: document.member(name) for name in ("ids", "skipped")}
        return replace(document, content=content).as_type(dict[str, list[str]])
    except R2T2Error as error:
        raise R2T2Error(f"cannot read the prepared set {path}: {error}; remove that folder and prepare it") from error
