"""`r2t2 bank inspect`: what a bank holds, and whether its routing weights know anything about the question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


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
        from r2t2_jax.bank import ReferenceBank
        from r2t2_jax.bank.folder import open_files
        from r2t2_jax.bank.inspection import inspect_bank
        from r2t2_jax.bank.leakage import find_leakage
        from r2t2_jax.cli.outputs import check_writable
        from r2t2_jax.datasets import load_dataset
        from r2t2_jax.evaluation.atlas_inspection import inspect_atlas
        from r2t2_jax.reporting.bank import inspection_page, inspection_text
        from r2t2_jax.runs.files import publish

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
            publish(self.html, lambda draft: draft.write_text(text, encoding="utf-8"))
            print(f"\nWrote {self.html}.")
        return 1 if leakage is not None and leakage.leaks else 0
