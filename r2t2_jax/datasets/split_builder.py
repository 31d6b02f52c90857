"""Writes a prepared split with TensorFlow Datasets. Importing this module imports TFDS."""

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

from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.prepared import LATER_TEXTS, LISTS, TEXTS, VERSION, SplitSelection
from r2t2_jax.datasets.record import DatasetSpec
from r2t2_jax.datasets.validate import InvalidRecordError, ValidatedSplit, choose_records, read_split
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.progress import ProgressBar

FORMAT = "array_record"


class SplitBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The TFDS builder of one split. `skipped` holds the causes why records were left out."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None

    def __init__(
        self,
        dataset: DatasetSpec,
        selection: SplitSelection,
        validated: ValidatedSplit,
        skip_bad: bool,
        data_dir: Path,
    ) -> None:
        self.name = f"r2t2_{dataset.name}"
        self.dataset, self.selection, self.skip_bad = dataset, selection, skip_bad
        self.records = choose_records(validated.records, dataset, selection.n, selection.seed)
        self.skipped = list(validated.invalid)
        self.ids: list[str] = []
        self.metadata = tfds.core.MetadataDict()
        config = tfds.core.BuilderConfig(name=selection.name, version=VERSION)
        super().__init__(data_dir=data_dir, config=config, file_format=FORMAT)

    def _info(self) -> Any:
        text = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.dataset.title,
            homepage=self.dataset.home,
            license=self.dataset.license,
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image()}
                | dict.fromkeys((*TEXTS, *LATER_TEXTS), text)
                | {name: tfds.features.Sequence(text) for name in LISTS}
            ),
            metadata=self.metadata,
            disable_shuffling=True,  # the official order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {self.selection.stored_split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        title = f"{self.dataset.name} {self.selection.name}"
        for record in ProgressBar(self.records, desc=title, unit="question", leave=False):
            try:
                if record.image is None:
                    raise R2T2Error(f"{record.where}: no image; evaluate text-only questions from their .jsonl file")
                image = encoded_image(record.image, record.where)
            except R2T2Error as error:
                if not self.skip_bad:
                    raise InvalidRecordError(str(error)) from error
                self.skipped.append(str(error))
                continue
            texts = {name: getattr(record, name) for name in (*TEXTS, *LATER_TEXTS)}
            lists = {name: list(getattr(record, name)) for name in LISTS}
            yield len(self.ids), {"image": image} | texts | lists
            self.ids.append(record.id)
        if not self.ids:
            raise R2T2Error(f"{self.dataset.name}: no record has a usable image; the first: {self.skipped[-1]}")
        self.metadata.update(ids=self.ids, skipped=self.skipped)


def build_split(
    dataset: DatasetSpec, selection: SplitSelection, manual_dir: Path, skip_bad: bool, data_dir: Path
) -> list[str]:
    """Write a split that is not prepared yet.

    Returns:
        The causes why records were left out.

    Raises:
        R2T2Error: the official files are missing or malformed, or the data folder cannot be written.
        InvalidRecordError: a record or its image is invalid and `skip_bad` is not set.
    """
    validated = read_split(dataset, manual_dir, selection.split, skip_bad)
    downloads = Path(tempfile.mkdtemp(prefix="r2t2-"))  # TFDS requires a folder; nothing is downloaded
    try:
        with _silence():
            builder = SplitBuilder(dataset, selection, validated, skip_bad, data_dir)
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        raise R2T2Error(f"cannot prepare {dataset.name} in {data_dir}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
        _remove_empty(data_dir / f"r2t2_{dataset.name}" / selection.name)
    return builder.skipped


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the messages and progress bars of TFDS, which concern downloads."""
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
    """Remove the empty folders that TFDS leaves after an error."""
    for path in (folder, folder.parent):
        with contextlib.suppress(OSError):
            path.rmdir()
