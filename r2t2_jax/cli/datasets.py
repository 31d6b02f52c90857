"""`r2t2 datasets`, `r2t2 aux build` and `r2t2 pocket scene`: prepare and show questions and images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from r2t2_jax.cli.output import print_json, print_result
from r2t2_jax.cli.parsing import Sets

if TYPE_CHECKING:  # the command line must start fast
    from r2t2_jax.contract import Sample
    from r2t2_jax.datasets.prepare import PrepareResult

GROUP = "r2t2.auxiliary"
NAMED = 20  # invalid records that are listed


@dataclass(frozen=True)
class PrepareDataset:
    """Check the official files of a set, questions and images, and store them for fast loading.

    Nothing is downloaded: get the files from the home page of the set, under its license (r2t2 datasets list --files).
    A set is stored completely or not at all. The first invalid record stops the command and is named.

    Example: r2t2 datasets prepare easy_vqa --manual-dir easy-VQA/easy_vqa/data
    """

    name: Annotated[str, tyro.conf.Positional]
    """Name of the set, as printed by r2t2 datasets list."""
    manual_dir: Path
    """Folder with the unpacked official files."""
    split: str | None = None
    """Split to prepare. Default: every split whose files exist."""
    limit: int | None = None
    """Number of questions of each split, such as the paper's 5000. Default: all. Also --samples, --n."""
    seed: int = 0
    """Seed of the choice with --limit."""
    skip_bad: bool = False
    """Skip invalid records and images; they are counted and named."""
    data_dir: Path | None = None
    """Folder for prepared sets. Default: $R2T2_DATA, or the folder of TensorFlow Datasets."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Prepare the set and print the result of each split."""
        from r2t2_jax.datasets.catalog import find_dataset
        from r2t2_jax.datasets.prepare import prepare
        from r2t2_jax.datasets.prepared import data_folder
        from r2t2_jax.datasets.validate import InvalidRecordError
        from r2t2_jax.errors import R2T2Error

        source = find_dataset(self.name)
        options = (self.split, self.limit, self.seed, self.skip_bad)
        records = []
        try:
            for outcome in prepare(source, self.manual_dir, data_folder(self.data_dir), *options):
                if self.json:
                    records.append(_record(outcome))
                else:
                    print("\n".join(_lines(self.name, outcome)))
            if self.json:
                print_json({"dataset": self.name, "splits": records})
        except InvalidRecordError as error:
            raise R2T2Error(f"{error} (--skip-bad skips such records)") from error


def _lines(name: str, outcome: PrepareResult) -> list[str]:
    """The lines that describe the result of a split, invalid records first."""
    count = len(outcome.skipped)
    lines = [f"skipped: {cause}" for cause in outcome.skipped[:NAMED]]
    lines += [f"skipped: {count - NAMED:,} more"] if count > NAMED else []
    if outcome.prepared is None:
        return [*lines, f"{name} {outcome.split}: missing: {outcome.missing}"]
    skipped = f", {count:,} skipped" if count else ""
    before = " was prepared before; remove that folder to prepare it again" if outcome.already_prepared else ""
    unit = outcome.prepared
    return [*lines, f"{name} {unit.name}: {unit.count:,} questions{skipped}: {unit.path}{before}"]


def _record(outcome: PrepareResult) -> dict[str, Any]:
    """The result of a split as JSON values."""
    unit = outcome.prepared
    return {
        "split": outcome.split,
        "questions": None if unit is None else unit.count,
        "folder": None if unit is None else unit.path,
        "already_prepared": outcome.already_prepared,
        "skipped": outcome.skipped,
        "missing": outcome.missing or None,
    }


@dataclass(frozen=True)
class AuxBuild:
    """Run the auxiliary models of MoAI on the images of question sets and add their outputs to a store.

    The store has one record per image, also if several sets have it; images that have a record are left out. After an
    interruption the same command resumes the work. Load MoAI with the store as moai:DIR,aux=STORE. The models need the
    extra `aux` and download their weights on first use.

    Example: r2t2 aux build --data questions.jsonl --out out/aux_records
    """

    data: Sets
    """Question sets: names of prepared sets (r2t2 datasets list), or .jsonl files. Also --tasks, --benchmark,
    --dataset."""
    out: Path
    """Folder of the store, a new or an earlier one."""
    models: tuple[str, ...] = ("segments", "detections", "ocr")
    """Models to run: segments (Mask2Former), detections (OWLv2), ocr (RapidOCR)."""
    scene_graphs: Path | None = None
    """A .jsonl file of scene graphs from another program; ports/moai/README.md describes the format."""
    split: str = ""
    """Split of the questions; gqa=val,train is val for gqa and train for all others. Default: the first of each set."""
    images: str = ""
    """Image folder of the .jsonl files. Default: the folder of each file."""
    limit: int | None = None
    """Number of questions of each set. Default: all. Also --samples."""
    seed: int = 0
    """Seed of the choice of questions."""
    port: str = "moai"
    """Port for which the outputs are computed."""
    max_hours: float | None = None
    """Stop after this many hours; the same command resumes the work."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Compute the outputs and print their number."""
        from r2t2_jax.bank.manifest import Source
        from r2t2_jax.evaluation.question_sets import load_source, settings_by_set
        from r2t2_jax.plugins import find
        from r2t2_jax.runs.atomic_io import check_can_create

        check_can_create(self.out)
        build = find(GROUP, self.port, "port with auxiliary models")
        splits = settings_by_set("--split", self.split, self.data)
        sources = [
            Source(name, splits[name] or "", self.limit, self.seed, self.images if name.endswith(".jsonl") else "")
            for name in self.data
        ]
        samples = [sample for source in sources for sample in load_source(source)]
        options = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        settings = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
            if name not in ("out", "max_hours", "json") and value is not None
        }
        counts = build(self.out, samples, self.models, self.scene_graphs, settings, self.max_hours)
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if name not in ("added", "images"))
        line = f"Added records of {counts['added']:,} images to {self.out}; it has {counts['images']:,}: {parts}."
        print_result(self.json, {"folder": self.out, **counts}, line)


@dataclass(frozen=True)
class AuxImport:
    """Add scene graphs from a file of another program to a store of auxiliary records of MoAI.

    The file has one line per sample, with names or with the fields of a result of PSGTr; ports/moai/README.md describes
    both. No model runs. Records that are in the store already get the part that they lack.

    Example: r2t2 aux import --scene-graphs psgtr.jsonl --data questions.jsonl --out out/aux_records
    """

    scene_graphs: Path
    """The .jsonl file of scene graphs."""
    data: Sets
    """Question sets whose samples the file names: prepared sets (r2t2 datasets list), or .jsonl files."""
    out: Path
    """Folder of the store, a new or an earlier one."""
    split: str = ""
    """Split of the questions; gqa=val,train is val for gqa and train for all others. Default: the first of each set."""
    images: str = ""
    """Image folder of the .jsonl files. Default: the folder of each file."""
    port: str = "moai"
    """Port whose store it is."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Add the scene graphs and print their number."""
        AuxBuild(
            self.data,
            self.out,
            models=(),
            scene_graphs=self.scene_graphs,
            split=self.split,
            images=self.images,
            port=self.port,
            json=self.json,
        ).run()


@dataclass(frozen=True)
class ShowDataset:
    """Write an HTML page that shows some questions of a set with their images, options and answers.

    Example: r2t2 datasets show easy_vqa --limit 8
    """

    name: Annotated[str, tyro.conf.Positional]
    """Name of a prepared set, pocket, or a .jsonl file."""
    limit: int = 5
    """Number of questions. Also --samples, --n."""
    split: str = ""
    """Split. Default: the first of the set, or `test` of a generated set."""
    seed: int = 0
    """Seed of the choice of questions."""
    manual_dir: Path | None = None
    """Folder of official files to show without preparing them; if it has no images, only questions are shown."""
    out: Path | None = None
    """HTML file. Default: <name>.html in the current folder."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the page and print its path."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets.catalog import DATASETS
        from r2t2_jax.datasets.contact_sheet import contact_sheet
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.runs.atomic_io import atomic_write

        out = self.out or Path(f"{Path(self.name).stem}.html")
        check_writable(out)
        samples, images = self._samples()
        source = DATASETS.get(self.name)
        notes = [f"{len(samples)} questions, seed {self.seed}"]
        if source is not None:
            notes.append(f"{source.title}. License: {source.license}. {source.home}")
        page = contact_sheet(self.name, notes, samples, images)
        try:
            atomic_write(out, lambda draft: draft.write_text(page, encoding="utf-8", newline="\n"))
        except OSError as error:
            raise R2T2Error(f"cannot write {out}: {error.strerror}") from error
        print_result(self.json, {"page": out, "questions": [sample.id for sample in samples]}, f"Wrote {out}.")

    def _samples(self) -> tuple[list[Sample], bool]:
        """The samples, and whether they have images."""
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.datasets.catalog import DATASETS, find_dataset
        from r2t2_jax.datasets.prepared import load_preview
        from r2t2_jax.datasets.samples import load_official_samples

        if self.manual_dir is not None:
            return load_official_samples(find_dataset(self.name), self.manual_dir, self.split, self.limit, self.seed)
        if self.name in DATASETS:
            return load_preview(DATASETS[self.name], self.split, self.limit, self.seed), True
        return load_dataset(self.name, self.split, self.limit, self.seed), True


@dataclass(frozen=True)
class PocketScene:
    """Draw a scene for the pocket model and print questions about it with their answers.

    The image has 96 x 96 pixels, the input size of the model. Each seed gives another scene.

    Example: r2t2 pocket scene --seed 1 --out scene.png
    """

    seed: int = 0
    """Seed of the scene and its questions."""
    limit: int = 8
    """Number of questions to print, from the eight families in turn. Also --questions."""
    out: Path = Path("scene.png")
    """PNG file for the image."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Write the image and print the questions."""
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.images import as_png
        from r2t2_jax.runs.atomic_io import atomic_write

        if self.out.suffix.lower() != ".png":
            raise R2T2Error(f"the image is written as PNG: {self.out} must end in .png")
        check_writable(self.out)
        samples = load_dataset("pocket", "scene", self.limit, self.seed)
        atomic_write(self.out, lambda draft: draft.write_bytes(as_png(samples[0].pixels())))
        width = max(len(sample.question) for sample in samples)
        questions = [{"question": sample.question, "answer": sample.answers[0]} for sample in samples]
        lines = (f"  {entry['question']:{width}}  {entry['answer']}" for entry in questions)
        heading = f"Wrote {self.out}. Questions to try, with their answers:\n"
        print_result(self.json, {"image": self.out, "questions": questions}, heading, *lines)
