"""`r2t2 bank build`: references for re-routing, from any model and question sets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


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
        from r2t2_jax.evaluation.building import Wanted, build_bank
        from r2t2_jax.evaluation.question_sets import read_sets
        from r2t2_jax.hashed_words import question_embedder
        from r2t2_jax.loading import load

        wanted = Wanted(self.limit, self.keep, self.features, self.batch_size)
        port = load(self.model)
        embedder = question_embedder(self.embedder) if self.embedder else port.embedder
        sets = read_sets(self.dataset, self.split, self.samples, self.seed, self.images, self.metric)
        given = {name: value for name, value in asdict(self).items() if value is not None}
        settings = {name: value for name, value in given.items() if name not in ("out", "max_hours")}
        summary = build_bank(self.out, port, embedder, sets, wanted, settings, self.max_hours)
        for name, one in summary["sources"].items():
            print(
                f"{name}: {one['rows']:,} of {one['questions']:,} questions kept, {one['correct']:,} answered correctly"
            )
        print(f"Wrote a bank of {summary['rows']:,} references to {self.out}.")
