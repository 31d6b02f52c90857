"""`r2t2 datasets prepare`: official files to a prepared set."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # the parser alone must start fast
    from r2t2_jax.datasets.prepare import PrepareResult

NAMED = 20  # bad records told one by one


@dataclass(frozen=True)
class PrepareDataset:
    """Check the official files of a set, questions and images, and store them for use.

    Nothing is downloaded: get the files from the set's home page, under its license (r2t2 datasets list --files). A set
    appears whole or not at all. The first record that cannot be used stops it and is named.

    Example: r2t2 datasets prepare easy_vqa --manual-dir easy-VQA/easy_vqa/data
    """

    name: Annotated[str, tyro.conf.Positional]
    """The set; r2t2 datasets list names them."""
    manual_dir: Path
    """The folder with the official files, as they were unpacked."""
    split: str | None = None
    """One split; without it every split whose files are there."""
    n: int | None = None
    """Only so many questions of each split, such as the paper's 5000."""
    seed: int = 0
    """Which questions are taken with --n."""
    skip_bad: bool = False
    """Leave out records or images that cannot be read; they are counted and named."""
    data_dir: Path | None = None
    """Where to store it; without it $R2T2_DATA, or the folder of TensorFlow Datasets."""

    def run(self) -> None:
        """Prepare, and print what came of each split."""
        from r2t2_jax.datasets.catalog import find_dataset
        from r2t2_jax.datasets.prepare import prepare
        from r2t2_jax.datasets.prepared import data_folder
        from r2t2_jax.datasets.validate import InvalidRecordError
        from r2t2_jax.errors import R2T2Error

        source = find_dataset(self.name)
        options = (self.split, self.n, self.seed, self.skip_bad)
        try:
            for outcome in prepare(source, self.manual_dir, data_folder(self.data_dir), *options):
                print("\n".join(_lines(self.name, outcome)))
        except InvalidRecordError as error:
            raise R2T2Error(f"{error} (--skip-bad leaves such records out)") from error


def _lines(name: str, outcome: PrepareResult) -> list[str]:
    """What came of a split; the bad records first."""
    count = len(outcome.skipped)
    lines = [f"left out: {cause}" for cause in outcome.skipped[:NAMED]]
    lines += [f"left out: {count - NAMED:,} more"] if count > NAMED else []
    if outcome.prepared is None:
        return [*lines, f"{name} {outcome.split}: not here: {outcome.missing}"]
    without = f", {count:,} left out" if count else ""
    before = " was prepared before; remove that folder to prepare it again" if outcome.already_prepared else ""
    unit = outcome.prepared
    return [*lines, f"{name} {unit.name}: {unit.count:,} questions{without}: {unit.path}{before}"]


GROUP = "r2t2.auxiliary"


@dataclass(frozen=True)
class AuxBuild:
    """Look at every image of a question set with the auxiliary models of MoAI, and store what they find.

    Killed or stopped at any point, the same command goes on where it was. MoAI then takes the folder:
    moai:DIR,aux=FOLDER. The models need the extra `aux`, and fetch their weights when first used.

    Example: r2t2 aux build --dataset questions.jsonl --out out/aux
    """

    dataset: str
    """Question set: a prepared one by name (r2t2 datasets list), or a .jsonl file."""
    out: Path
    """Folder for the records."""
    models: tuple[str, ...] = ("segments", "detections", "ocr")
    """Which models to ask: segments (Mask2Former), detections (OWLv2), ocr (RapidOCR)."""
    scene_graphs: Path | None = None
    """A .jsonl file of scene graphs, made elsewhere: ports/moai/README.md has its format."""
    split: str = ""
    """Split of the questions. Without it the set's first."""
    samples: int | None = None
    """How many questions to choose. Without it the set's own number."""
    seed: int = 0
    """Chooses the questions."""
    port: str = "moai"
    """For which port."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Build, and say which parts were found of how many images."""
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.plugins import find

        build = find(GROUP, self.port, "port with auxiliary models")
        samples = load_dataset(self.dataset, self.split, self.samples, self.seed)
        given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in given.items()
            if name not in ("out", "max_hours") and value is not None
        }
        found = build(self.out, samples, self.models, self.scene_graphs, settings, self.max_hours)
        parts = ", ".join(f"{name} {count:,}" for name, count in found.items() if name != "images")
        print(f"Wrote records of {found['images']:,} images to {self.out}; asked for: {parts}.")


@dataclass(frozen=True)
class ListDatasets:
    """List the reference sets and benchmarks: splits, metric, and what of them is prepared.

    Example: r2t2 datasets list
    """

    data_dir: Path | None = None
    """Where prepared sets are; without it $R2T2_DATA, or the folder of TensorFlow Datasets."""
    files: bool = False
    """Show licenses, the official files each set is made of, and home pages."""

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from r2t2_jax.datasets.catalog import DATASETS
        from r2t2_jax.datasets.prepared import data_folder, list_prepared_splits

        folder = data_folder(self.data_dir)
        table = Table(title=f"Datasets; prepared ones are in {folder}", title_justify="left", show_lines=self.files)
        columns = ("license", "official files", "home") if self.files else ("splits", "role", "metric", "prepared")
        for column in ("name", *columns):
            table.add_column(column, overflow="fold")
        for source in DATASETS.values():
            if self.files:
                table.add_row(source.name, source.license, source.files, source.home)
                continue
            units = ", ".join(f"{unit.name} ({unit.count:,})" for unit in list_prepared_splits(source, folder))
            table.add_row(source.name, ", ".join(source.splits) or "any", source.role, source.metric, units)
        Console().print(table)


if TYPE_CHECKING:  # the parser alone must start fast
    from r2t2_jax.contract import Sample


@dataclass(frozen=True)
class ShowDataset:
    """Write an HTML page that shows some questions of a set with their images, options and answers.

    Example: r2t2 datasets show easy_vqa --n 8
    """

    name: Annotated[str, tyro.conf.Positional]
    """A prepared set, pocket, or a .jsonl file."""
    n: int = 5
    """How many questions."""
    split: str = ""
    """Which split; without it the set's first."""
    seed: int = 0
    """Which questions."""
    manual_dir: Path | None = None
    """Show official files that are not prepared; where they come without images, the questions alone."""
    out: Path | None = None
    """The page; without it <name>.html in this folder."""

    def run(self) -> None:
        """Write the page and print its path."""
        from r2t2_jax.datasets.catalog import DATASETS
        from r2t2_jax.datasets.contact_sheet import contact_sheet
        from r2t2_jax.errors import R2T2Error

        samples, images = self._samples()
        source = DATASETS.get(self.name)
        notes = [f"{len(samples)} questions, seed {self.seed}"]
        if source is not None:
            notes.append(f"{source.title}. License: {source.license}. {source.home}")
        out = self.out or Path(f"{Path(self.name).stem}.html")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(contact_sheet(self.name, notes, samples, images), encoding="utf-8")
        except OSError as error:
            raise R2T2Error(f"cannot write {out}: {error.strerror}") from error
        print(f"Wrote {out}.")

    def _samples(self) -> tuple[list[Sample], bool]:
        """The samples, and whether their images are there."""
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.datasets.catalog import DATASETS, find_dataset
        from r2t2_jax.datasets.prepared import load_preview
        from r2t2_jax.datasets.samples import load_official_samples
        from r2t2_jax.errors import R2T2Error

        if self.n < 1:
            raise R2T2Error(f"the number of questions must be at least 1, not {self.n}")
        if self.manual_dir is not None:
            return load_official_samples(find_dataset(self.name), self.manual_dir, self.split, self.n, self.seed)
        if self.name in DATASETS:
            return load_preview(DATASETS[self.name], self.split, self.n, self.seed), True
        return load_dataset(self.name, self.split, self.n, self.seed), True


@dataclass(frozen=True)
class PocketScene:
    """Draw a scene for the pocket model and print questions about it with their answers.

    The image is 96 x 96 pixels, as the model sees it. Another seed draws another scene.

    Example: r2t2 pocket scene --seed 1 --out scene.png
    """

    seed: int = 0
    """Draws the scene and its questions."""
    questions: int = 8
    """How many questions to print, the eight families in turn."""
    out: Path = Path("scene.png")
    """PNG file for the image."""

    def run(self) -> None:
        """Draw, write and print."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.images import as_png
        from r2t2_jax.runs.atomic_io import atomic_write

        if self.out.suffix.lower() != ".png":
            raise R2T2Error(f"the image is a PNG file, so {self.out} must end in .png")
        check_writable(self.out)
        samples = load_dataset("pocket", "scene", self.questions, self.seed)
        atomic_write(self.out, lambda draft: draft.write_bytes(as_png(samples[0].image)))
        print(f"Wrote {self.out}. Questions to try, with their answers:\n")
        width = max(len(sample.question) for sample in samples)
        for sample in samples:
            print(f"  {sample.question:{width}}  {sample.answers[0]}")
