"""`r2t2 bank`: builds, imports, indexes and inspects reference banks, and builds their loss atlas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from r2t2_jax.cli.output import print_json, print_result
from r2t2_jax.cli.parsing import NO_CLUSTER, Cluster, Sets, command_settings, log, print_plan


@dataclass(frozen=True)
class BankBuild:
    """Build a reference bank: the routing and the answers of a model for the questions of some sets.

    After an interruption the same command resumes the work; the bank is complete once bank.json exists. All references
    are stored, with a flag for those answered correctly, which are the references of the paper. docs/bank.md describes
    the files.

    Example: r2t2 bank build --model pocket:narrow --data pocket --out out/bank
    """

    model: str
    """Model: a directory written by r2t2 convert, a port such as pocket:narrow, or module:attribute."""
    data: Sets
    """Question sets: names of prepared sets (r2t2 datasets list), or .jsonl files. Also --tasks, --benchmark,
    --dataset."""
    out: Path
    """Folder for the bank."""
    embedder: str = ""
    """Embedder of the questions, such as minilm:DIR or hashed_words. Default: the model's own."""
    split: str | None = None
    """Split of the questions; gqa=val,train is val for gqa and train for all others. Default: the first of each set, or
    the references of a generated set."""
    images: str = ""
    """Image folder of the .jsonl files. Default: the folder of each file."""
    limit: int | None = None
    """Number of questions of each set, chosen by the seed. Default: all. Also --samples."""
    keep: int = 5000
    """Number of correctly answered references of each set; the questions after them are not asked."""
    only_correct: bool = False
    """Store only the correctly answered references. Default: also the others, which the loss atlas uses."""
    metric: str = ""
    """Metric that decides which answers are correct, also by set: gqa=gqa_vlmevalkit,vqav2=vqa. Default: each set's."""
    beams: int = 1
    """Beams of the search for an answer, for models that have one; 1 is greedy, 3 the setting of the published MoAI."""
    max_new_tokens: str = ""
    """Longest answer in tokens, also by set: 64,docvqa=32. Default: the number of the published evaluation of a set."""
    features: bool = False
    """Also store the model's features of each sample. They take much space; otherwise they are computed again."""
    seed: int = 0
    """Seed of the choice and the order of the questions."""
    batch_size: int = 48
    """Questions per batch."""
    dry_run: bool = False
    """Print the plan, and compute nothing."""
    max_hours: float | None = None
    """Stop after this many hours; the same command resumes the work."""
    json: bool = False
    """Print the numbers as JSON."""
    cluster: Cluster = NO_CLUSTER

    def run(self) -> None:
        """Build the bank and print its numbers."""
        from r2t2_jax.evaluation.build_bank import BankConfig, bank_plan, build_bank
        from r2t2_jax.evaluation.devices import local_model
        from r2t2_jax.evaluation.encode import note_of_long_questions
        from r2t2_jax.evaluation.question_sets import read_sets
        from r2t2_jax.evaluation.setup import ModelSource, with_decoding, with_embedder
        from r2t2_jax.plugins import load
        from r2t2_jax.runs.cluster import connect
        from r2t2_jax.runs.folder import check_folder
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        check_folder(self.out, "bank build", command_settings(self))
        enable_compilation_cache()
        config = BankConfig(self.keep, "correct" if self.only_correct else "all", self.features, self.batch_size)
        sets = read_sets(self.data, self.split, self.limit, self.seed, self.images, self.metric, self.max_new_tokens)
        cluster, model = self.cluster.config(), local_model(self.model, self.cluster.model_uri)
        with connect(None if self.dry_run else cluster, log) as workers:
            (loaded,) = with_embedder([load(model)], self.embedder)
            port = with_decoding(loaded, self.beams)
            if self.dry_run:
                print_plan(port, bank_plan(sets, config), "questions", cluster, self.json)
                return
            for questions in sets.values():
                if note := note_of_long_questions(port, questions.samples):
                    log(note)
            source = ModelSource.of(workers, port, self.model, self.embedder) if workers else None
            settings = command_settings(self)
            summary = build_bank(self.out, port, sets, config, settings, self.max_hours, log, workers, source)
        if self.json:
            print_json(summary)
            return
        for name, counts in summary["sources"].items():
            share = f" ({100 * counts['correct'] / counts['answered']:.1f} %)" if counts["answered"] else ""
            print(
                f"{name}: {counts['answered']:,} of {counts['questions']:,} questions answered, "
                f"{counts['correct']:,} answered correctly{share}, {counts['rows']:,} stored"
            )
        print(f"Wrote a bank of {summary['rows']:,} references to {self.out}.")
        print(f"Statistics and HTML report: r2t2 bank inspect {self.out} --html {self.out.name}.html")


@dataclass(frozen=True)
class BankAtlas:
    """Build the loss atlas of a bank: the loss of every reference at a few fixed routing points.

    The strategies atlas, atlas_argmin and best_fixed choose a routing from this table, without a forward pass of the
    model. Wrongly answered references are included, since they show which routing would have been right. After an
    interruption the same command resumes the work.

    Example: r2t2 bank atlas out/bank --model pocket:narrow
    """

    bank: tyro.conf.Positional[Path]
    """Folder of the bank. The atlas is written to its folder `atlas`, replacing an earlier one."""
    model: str
    """Model that built the bank."""
    points: int = 16
    """Number of routing points."""
    candidates: int = 106
    """Number of random candidate points, in addition to corners, edges and center of routing space."""
    choosing: int = 1000
    """Number of references on which the points are chosen."""
    k: int = 20
    """Number of neighbors of each reference while choosing."""
    kind: Literal["auto", "shifts", "mixtures"] = "auto"
    """Points: shifts of a sample's own logits, or mixtures with its own weights. Default: routing weights with up to
    16 experts, shifts with more."""
    seed: int = 0
    """Seed of the random candidates."""
    batch_size: int = 48
    """References per batch."""
    dry_run: bool = False
    """Print the plan, and compute nothing."""
    max_hours: float | None = None
    """Stop after this many hours; the same command resumes the work."""
    json: bool = False
    """Print the numbers as JSON."""
    cluster: Cluster = NO_CLUSTER

    def run(self) -> None:
        """Build the atlas and print its size."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.atlas import ATLAS
        from r2t2_jax.bank.build_atlas import AtlasPlan, atlas_parts, build_atlas, check_enough_references
        from r2t2_jax.evaluation.devices import local_model
        from r2t2_jax.evaluation.feature_cache import BankArrays, with_samples
        from r2t2_jax.evaluation.setup import ModelSource
        from r2t2_jax.plugins import load
        from r2t2_jax.runs.cluster import connect
        from r2t2_jax.runs.plan import Plan
        from r2t2_jax.runs.workers import WorkerProgram
        from r2t2_jax.runtime.compilation_cache import enable_compilation_cache

        enable_compilation_cache()
        plan = AtlasPlan(self.points, self.candidates, self.choosing, self.k, self.batch_size, self.seed, self.kind)
        stored = ReferenceBank.open(self.bank)
        check_enough_references(len(stored), plan)
        cluster, model = self.cluster.config(), local_model(self.model, self.cluster.model_uri)
        with connect(None if self.dry_run else cluster, log) as workers:
            port = load(model)
            bank = with_samples(stored, port)
            if self.dry_run:
                print_plan(port, Plan(atlas_parts(len(bank), plan)), "references", cluster, self.json)
                return
            program = None
            if workers:
                source = ModelSource.of(workers, port, self.model)
                bank_arrays = BankArrays.of(bank, workers.per_node)
                arguments = {"source": source, "bank": bank_arrays, "plan": plan}
                program = WorkerProgram("r2t2_jax.evaluation.worker:open_atlas", arguments)
            folder = self.bank / ATLAS
            atlas = build_atlas(port.model, port.params, bank, folder, plan, self.max_hours, workers, program)
        if self.json:
            print_json({"references": len(atlas), "points": len(atlas.points), "folder": folder})
            return
        points = f"{len(atlas.points)} points"
        if len(atlas.points) < self.points:
            points += " (all candidates)"
        print(f"Wrote an atlas of {len(atlas):,} references at {points} to {self.bank}/atlas.")
        if bank.right.all():
            print("All references are answered correctly, so the atlas has no data about errors of this router.")


@dataclass(frozen=True)
class BankImport:
    """Import a reference file in the R2-T2 authors' format: questions, answers and routing weights.

    This needs neither model nor images; the questions are embedded again. The bank can be inspected and searched.
    Re-routing with it needs a model with the same experts, and the images.

    Example: r2t2 bank import reference.json --out out/released
    """

    file: Annotated[Path, tyro.conf.Positional]
    """JSON list of {id, question, image_path, model_answer, ground_truth, is_correct, weights}."""
    out: Path
    """Folder for the bank."""
    embedder: str = ""
    """Embedder of the questions, such as minilm:DIR or hashed_words. Default: MiniLM if it is installed."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Import the file and print its numbers."""
        from r2t2_jax.bank.importing import check_import_target, import_bank
        from r2t2_jax.retrieval.hashed_bag_of_words import default_embedder, question_embedder

        check_import_target(self.out)
        embedder = question_embedder(self.embedder) if self.embedder else default_embedder()
        bank = import_bank(self.file, embedder)
        bank.save(self.out)
        right = int(bank.right.sum())
        print_result(
            self.json,
            {"folder": self.out, "references": len(bank), "correct": right, "embedder": embedder.fingerprint},
            f"{len(bank):,} references, {right:,} answered correctly, embedded by {embedder.fingerprint}",
            f"Wrote a bank to {self.out}.",
        )


@dataclass(frozen=True)
class BankIndex:
    """Build a search index of a bank's correctly answered references and save it in the bank's folder.

    An approximate index is faster for large banks; its recall is measured and printed. docs/bank.md describes how its
    parameters are chosen.

    Example: r2t2 bank index out/bank --kind scann --min-recall 0.95
    """

    bank: Annotated[Path, tyro.conf.Positional]
    """Folder of the bank."""
    kind: Literal["auto", "exact", "scann"] = "auto"
    """exact compares with every reference; scann is approximate; auto is exact except for large banks."""
    metric: Literal["cosine", "dot", "l2"] = "cosine"
    """Distance metric."""
    min_recall: float = 0.0
    """Fail if the recall at 5 of an approximate index is lower."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> None:
        """Build and save the index, and print its recall."""
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.retrieval import INDEX, build_index, check_index_folder
        from r2t2_jax.retrieval.scann import ScannIndex
        from r2t2_jax.runs.atomic_io import atomic_folder

        check_index_folder(self.bank / INDEX)
        bank = ReferenceBank.open(self.bank).only_correct()
        index = build_index(bank.embeddings, self.kind, self.metric, self.min_recall)
        atomic_folder(self.bank / INDEX, index.save)
        content = {"folder": self.bank / INDEX, "references": len(index), "metric": self.metric}
        if isinstance(index, ScannIndex):
            content |= {"kind": "scann", "recall_at_5": index.recall, "parameters": index.parameters}
            quality = f"Recall at 5 of held-out references: {index.recall:.3f}, with {index.parameters}."
        else:
            content |= {"kind": "exact", "recall_at_5": 1.0, "parameters": None}
            quality = "The index is exact."
        heading = f"Wrote {self.bank / INDEX}: {len(index):,} references, {self.metric}."
        print_result(self.json, content, heading, quality)


@dataclass(frozen=True)
class BankInspect:
    """Print statistics of a bank: sizes, accuracy by source, experts, duplicates, and whether re-routing can work.

    The last one is a test of whether similar questions have similar routing weights; if not, neighbors have no
    information for re-routing. docs/bank.md explains the test. If the bank has a loss atlas, the best routing of each
    source and the quality of the neighbors' choices are printed too.

    Example: r2t2 bank inspect out/bank --against pocket --split test
    """

    bank: Annotated[Path, tyro.conf.Positional]
    """Folder of the bank."""
    k: int = 5
    """Number of neighbors of each reference in the test."""
    against: str = ""
    """Evaluation set (name or .jsonl file) whose questions must not be in the bank. Also --data."""
    split: str = ""
    """Split of the evaluation set. Default: the first."""
    html: Path | None = None
    """HTML file to write the statistics to."""
    verify: bool = False
    """Check every byte against its checksum; opening a bank checks large files by samples."""
    seed: int = 0
    """Seed of the permutations."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        """Print the statistics. The exit code is 1 if questions of the evaluation set are in the bank."""
        from r2t2_jax.analysis.atlas_inspection import inspect_atlas
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.inspect import find_leakage, inspect_bank
        from r2t2_jax.bank.storage import open_files
        from r2t2_jax.cli.parsing import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.errors import R2T2Error
        from r2t2_jax.reporting.bank_report import inspection_page, inspection_text
        from r2t2_jax.runs.atomic_io import atomic_write

        if self.html:
            check_writable(self.html)
        if self.split and not self.against:
            raise R2T2Error("--split is that of the evaluation set: name one with --against")
        if self.verify:
            open_files(self.bank, whole=True)
            if not self.json:
                print("All files match their checksums.\n")
        bank = ReferenceBank.open(self.bank)
        leakage = find_leakage(bank, load_dataset(self.against, self.split)) if self.against else None
        inspection = inspect_bank(bank, self.k, self.seed)
        title = f"Bank {self.bank}"
        atlas = None if bank.atlas is None else inspect_atlas(bank)
        if self.json:
            print_json({"bank": self.bank, "inspection": inspection, "leakage": leakage, "atlas": atlas})
        else:
            print(inspection_text(title, inspection, leakage, atlas))
        if self.html:
            text = inspection_page(title, inspection, leakage, atlas)
            atomic_write(self.html, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))
            if not self.json:
                print(f"\nWrote {self.html}.")
        return 1 if leakage is not None and leakage.leaks else 0
