"""One TensorFlow Datasets builder for all sets: the readers give the records, TFDS stores them.

TensorFlow itself is not needed. A prepared unit is a split, whole or a subset, in array_record files with the images as
they came: `<data folder>/r2t2_<set>/<split>[-n<n>-seed<seed>]/<version>`. TFDS writes it to a sibling folder and
renames that, so a unit that is there is whole.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tqdm import tqdm

from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.record import Source
from r2t2_jax.datasets.survey import BadRecord, Survey, subset, survey
from r2t2_jax.datasets.unit import VERSION, Unit
from r2t2_jax.errors import R2T2Error

FORMAT = "array_record"
TEXTS = ("id", "question", "style", "category", "split")
LISTS = ("options", "answers")


class QuestionSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The builder. `skipped` names the records that were left out."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None

    def __init__(self, source: Source, unit: Unit, found: Survey, skip_bad: bool, data_dir: Path) -> None:
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


def build(source: Source, unit: Unit, manual_dir: Path, skip_bad: bool, data_dir: Path) -> list[str]:
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
