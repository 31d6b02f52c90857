"""Prepared sets: where they are, which there are, and their samples.

The data folder is the environment variable R2T2_DATA, or else that of TensorFlow Datasets.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.record import Source
from r2t2_jax.datasets.samples import StoredSample
from r2t2_jax.datasets.validate import BadRecord, Survey, choose, subset, survey
from r2t2_jax.errors import R2T2Error

VERSION = "1.0.0"  # of what is stored of a question

WHOLE = "whole"  # stands for all splits of a set whose files name them
_NAME = re.compile(r"\w[\w .-]*")


@dataclass(frozen=True)
class PreparedSplit:
    """Which part of a set is meant: a split (empty for all of a set without splits), or n questions of it by a seed.

    Raises:
        R2T2Error: the split cannot be the name of a folder, or is `all` or `whole`, which mean something else.
    """

    split: str
    n: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split and (self.split in ("all", WHOLE) or not _NAME.fullmatch(self.split)):
            raise R2T2Error(f"{self.split!r} cannot name a split: take letters, digits, -, _ and . (not all, whole)")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.stored_split + ("" if self.n is None else f"-n{self.n}-seed{self.seed}")

    @property
    def stored_split(self) -> str:
        """What the split is called on disk."""
        return self.split or WHOLE


FORMAT = "array_record"
TEXTS = ("id", "question", "style", "category", "split")
LISTS = ("options", "answers")


class QuestionSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The builder. `skipped` names the records that were left out."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None

    def __init__(self, source: Source, unit: PreparedSplit, found: Survey, skip_bad: bool, data_dir: Path) -> None:
        self.name = f"r2t2_{source.name}"
        self.source, self.unit, self.skip_bad = source, unit, skip_bad
        self.records = subset(found.records, source, unit.n, unit.seed)
        self.skipped = list(found.bad)
        self.ids: list[str] = []
        self.metadata = tfds.core.MetadataDict()
        config = tfds.core.BuilderConfig(name=unit.name, version=VERSION)
        super().__init__(data_dir=data_dir, config=config, file_format=FORMAT)

    def _info(self) -> Any:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.source.title,
            homepage=self.source.home,
            license=self.source.licence,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image()}
                | dict.fromkeys(TEXTS, text)
                | {name: tfds.features.Sequence(text) for name in LISTS}
            ),
            metadata=self.metadata,
            disable_shuffling=True,  # the official order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {self.unit.stored_split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for record in tqdm(self.records, desc=f"{self.source.name} {self.unit.name}", unit="question", leave=False):
            try:
                image = encoded_image(record.image, record.where)
            except R2T2Error as error:
                if not self.skip_bad:
                    raise BadRecord(str(error)) from error
                self.skipped.append(str(error))
                continue
            texts = {name: getattr(record, name) for name in TEXTS}
            lists = {name: list(getattr(record, name)) for name in LISTS}
            yield len(self.ids), {"image": image} | texts | lists
            self.ids.append(record.id)
        if not self.ids:
            raise R2T2Error(f"{self.source.name}: no record has a usable image; the first: {self.skipped[-1]}")
        self.metadata.update(ids=self.ids, skipped=self.skipped)


def build(source: Source, unit: PreparedSplit, manual_dir: Path, skip_bad: bool, data_dir: Path) -> list[str]:
    """Prepare a unit that is not there yet.

    Returns:
        What was wrong with the records that were left out.

    Raises:
        R2T2Error: the official files are missing or wrong, or the data folder cannot be written.
        BadRecord: a record or its image cannot be used and `skip_bad` is not set.
    """
    found = survey(source, manual_dir, unit.split, skip_bad)
    downloads = Path(tempfile.mkdtemp(prefix="r2t2-"))  # TFDS wants one; nothing is downloaded
    try:
        with _silence():
            builder = QuestionSet(source, unit, found, skip_bad, data_dir)
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise R2T2Error(f"cannot prepare {source.name} in {data_dir}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
        _remove_empty(data_dir / f"r2t2_{source.name}" / unit.name)
    return builder.skipped


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """TFDS speaks of downloads and shows bars for steps that mean nothing here."""
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _remove_empty(folder: Path) -> None:
    """Folders that TFDS made for a unit which then failed."""
    for path in (folder, folder.parent):
        with contextlib.suppress(OSError):
            path.rmdir()


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
    whole, part = PreparedSplit(split).name, PreparedSplit(split, n, seed).name
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
    whole = PreparedSplit(split).name
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
    pass

    fields: dict[str, Any] = {name: example[name].decode() for name in TEXTS}
    fields |= {name: tuple(text.decode() for text in example[name]) for name in LISTS}
    return StoredSample(example["image"], **fields)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        content = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
        return {"ids": list(content["ids"]), "skipped": list(content["skipped"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"cannot read the prepared set {path}: {error}; remove that folder and prepare it") from error
