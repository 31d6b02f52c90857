"""`r2t2 bank build`: references for re-routing, from any model and question sets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class BankBuild:
    """Ask a model the questions of some sets, and keep how it routed and answered each: a reference bank.

    Killed or stopped at any point, the same command goes on where it was; the bank is there once bank.json is. Every
    row is kept, with a flag that tells whether it was answered correctly; re-routing as in the paper reads those that
    were. docs/bank.md describes the files.

    Example: r2t2 bank build --model pocket:narrow --dataset pocket --out out/bank
    """

    model: str
    """The model: a directory that `r2t2 convert` made, a port such as pocket:narrow, or module:attribute."""
    dataset: tuple[str, ...]
    """Question sets: prepared ones by name (r2t2 datasets list), or .jsonl files."""
    out: Path
    """Folder for the bank."""
    embedder: str = ""
    """What embeds the questions: minilm:DIR and the like, or hashed_words. Without it the model's own."""
    split: str | None = None
    """Split of the questions. Without it each set's first, or the references of a set that is drawn."""
    images: str = ""
    """Image folder of the .jsonl files. Without it each file's own folder."""
    samples: int | None = None
    """How many questions to choose from each set. Without it all."""
    limit: int = 5000
    """Leave a set once so many of its questions are answered correctly."""
    keep: Literal["all", "correct"] = "all"
    """Which rows to keep: all up to there, or the correctly answered ones alone."""
    metric: str = ""
    """What counts as correct. Without it each set's official metric."""
    features: bool = False
    """Store what the model computes of each sample too. It takes much room; without it, it is computed again."""
    seed: int = 0
    """Chooses the questions, and the order in which they are asked."""
    batch_size: int = 50
    """Questions at a time."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Build, and say what came of it."""
        from r2t2_jax.evaluation.build_bank import BankConfig, build_bank
        from r2t2_jax.evaluation.question_sets import read_sets
        from r2t2_jax.evaluation.setup import with_embedder
        from r2t2_jax.plugins import load

        config = BankConfig(self.limit, self.keep, self.features, self.batch_size)
        (port,) = with_embedder([load(self.model)], self.embedder)
        sets = read_sets(self.dataset, self.split, self.samples, self.seed, self.images, self.metric)
        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = {name: value for name, value in given.items() if name not in ("out", "max_hours")}
        summary = build_bank(self.out, port, sets, config, settings, self.max_hours)
        for name, one in summary["sources"].items():
            print(
                f"{name}: {one['rows']:,} of {one['questions']:,} questions kept, {one['correct']:,} answered correctly"
            )
        print(f"Wrote a bank of {summary['rows']:,} references to {self.out}.")


@dataclass(frozen=True)
class BankAtlas:
    """Make the loss atlas of a bank: each reference's loss at a few routing points.

    The strategies atlas, atlas_argmin and best_fixed then choose a routing by looking at all of them, without a model
    pass. References answered wrongly count too: they tell which routing would have been right. Killed or stopped at
    any point, the same command goes on where it was.

    Example: r2t2 bank atlas out/bank --model pocket:narrow
    """

    bank: tyro.conf.Positional[Path]
    """Folder of the bank. The atlas goes into its folder `atlas`, in place of an earlier one."""
    model: str
    """The model the bank was built with."""
    points: int = 16
    """How many routing points."""
    candidates: int = 106
    """Drawn points to choose from, beside the corners, edges and centre of routing space."""
    choosing: int = 1000
    """References on which the points are chosen."""
    k: int = 20
    """Neighbours of each while choosing."""
    seed: int = 0
    """Of the drawn candidates."""
    batch_size: int = 50
    """References at a time."""
    max_hours: float | None = None
    """Stop after so many hours; the same command goes on."""

    def run(self) -> None:
        """Make it, and say what it holds."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.atlas import ATLAS
        from r2t2_jax.bank.build_atlas import AtlasPlan, build_atlas
        from r2t2_jax.evaluation.feature_cache import with_samples
        from r2t2_jax.plugins import load

        plan = AtlasPlan(self.points, self.candidates, self.choosing, self.k, self.batch_size, self.seed)
        port = load(self.model)
        bank = with_samples(ReferenceBank.open(self.bank), port)  # whatever embedded the questions
        atlas = build_atlas(port.model, port.params, bank, self.bank / ATLAS, plan, self.max_hours)
        few = "" if len(atlas.points) == self.points else f" ({self.points} were asked, there are no more candidates)"
        print(f"Wrote an atlas of {len(atlas):,} references at {len(atlas.points)} points{few} to {self.bank}/atlas.")
        wrong = len(bank) - int(bank.right.sum())
        if not wrong:
            print("No reference is answered wrongly: the atlas knows nothing of what this router gets wrong.")


@dataclass(frozen=True)
class BankImport:
    """Make a bank of a reference file in the R2-T2 authors' format: questions, answers and routing weights.

    No model and no images are needed; the questions are embedded anew. The rows can be inspected and searched. To
    re-route with them, a model with the same experts must have the images too.

    Example: r2t2 bank import reference.json --out out/released
    """

    file: Annotated[Path, tyro.conf.Positional]
    """The file: a JSON list of {id, question, image_path, model_answer, ground_truth, is_correct, weights}."""
    out: Path
    """Folder for the bank."""
    embedder: str = ""
    """What embeds the questions: minilm:DIR and the like, or hashed_words. Without it MiniLM where installed."""

    def run(self) -> None:
        """Import, and say what was found."""
        from r2t2_jax.bank.importing import import_bank
        from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder, question_embedder

        embedder = question_embedder(self.embedder) if self.embedder else default_embedder()
        bank = import_bank(self.file, embedder)
        bank.save(self.out)
        right = int(bank.right.sum())
        print(f"{len(bank):,} references, {right:,} answered correctly, embedded by {embedder.fingerprint}")
        print(f"Wrote a bank to {self.out}.")


@dataclass(frozen=True)
class BankIndex:
    """Build the index of a bank's correctly answered references and save it in the bank's folder.

    An approximate index pays for large banks; what it finds of the true neighbours is measured and told. docs/bank.md
    says how its parameters are chosen.

    Example: r2t2 bank index out/bank --kind scann --min-recall 0.95
    """

    bank: Annotated[Path, tyro.conf.Positional]
    """The bank's folder."""
    kind: Literal["auto", "exact", "scann"] = "auto"
    """exact compares with every reference; scann approximates; auto is exact unless the bank is large."""
    metric: Literal["cosine", "dot", "l2"] = "cosine"
    """What near means."""
    min_recall: float = 0.0
    """Refuse an approximate index that finds a smaller share of the 5 nearest."""

    def run(self) -> None:
        """Build, save, and tell the recall."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.retrieval import INDEX, build_index
        from r2t2_jax.retrieval.scann import ScannIndex
        from r2t2_jax.runs.atomic_io import atomic_write

        bank = ReferenceBank.open(self.bank).only_correct()
        index = build_index(bank.embeddings, self.kind, self.metric, self.min_recall)
        atomic_write(self.bank / INDEX, index.save)
        print(f"Wrote {self.bank / INDEX}: {len(index):,} references, {self.metric}.")
        if isinstance(index, ScannIndex):
            print(f"Recall at 5 of held-out references: {index.recall:.3f}, with {index.parameters}.")
        else:
            print("Exact: nothing is missed.")


@dataclass(frozen=True)
class BankInspect:
    """Look into a bank: sizes, accuracy by source, experts, duplicates, and whether re-routing can work with it.

    The last is told by the weights of near questions: if they are no more alike than those of any two questions,
    neighbours have nothing to teach. docs/bank.md explains the test. Where the bank has a loss atlas, it tells which
    routing each source likes, and how well neighbours choose.

    Example: r2t2 bank inspect out/bank --against pocket --split test
    """

    bank: Annotated[Path, tyro.conf.Positional]
    """The bank's folder."""
    k: int = 5
    """Neighbours of each reference that the test looks at."""
    against: str = ""
    """An evaluation set, to see whether its questions stand in the bank: a set's name or a .jsonl file."""
    split: str = ""
    """Split of the evaluation set. Without it the first."""
    html: Path | None = None
    """HTML file for the same as a page."""
    verify: bool = False
    """Read every byte against its checksum; opening a bank looks at large files by samples."""
    seed: int = 0
    """Of the permutations."""

    def run(self) -> int:
        """Print the inspection. The exit code is 1 if questions of the evaluation set stand in the bank."""
        from r2t2_jax.analysis.atlas_inspection import inspect_atlas
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.inspect import find_leakage, inspect_bank
        from r2t2_jax.bank.storage import open_files
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.reporting.bank_report import inspection_page, inspection_text
        from r2t2_jax.runs.atomic_io import atomic_write

        if self.html:
            check_writable(self.html)
        if self.verify:
            open_files(self.bank, whole=True)
            print("Every byte is as it was written.\n")
        bank = ReferenceBank.open(self.bank)
        leakage = find_leakage(bank, load_dataset(self.against, self.split)) if self.against else None
        inspection = inspect_bank(bank, self.k, self.seed)
        title = f"Bank {self.bank}"
        atlas = None if bank.atlas is None else inspect_atlas(bank)
        print(inspection_text(title, inspection, leakage, atlas))
        if self.html:
            text = inspection_page(title, inspection, leakage, atlas)
            atomic_write(self.html, lambda draft: draft.write_text(text, encoding="utf-8"))
            print(f"\nWrote {self.html}.")
        return 1 if leakage is not None and leakage.leaks else 0
