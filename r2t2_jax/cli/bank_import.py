"""`r2t2 bank import`: the authors' released references as a bank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


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
        from r2t2_jax.hashed_words import default_embedder, question_embedder

        embedder = question_embedder(self.embedder) if self.embedder else default_embedder()
        bank = import_bank(self.file, embedder)
        bank.save(self.out)
        right = int(bank.right.sum())
        print(f"{len(bank):,} references, {right:,} answered correctly, embedded by {embedder.fingerprint}")
        print(f"Wrote a bank to {self.out}.")
