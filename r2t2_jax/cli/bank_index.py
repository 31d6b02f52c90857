"""`r2t2 bank index`: an index of a bank's references, built once and loaded from then on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


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
        from r2t2_jax.index import INDEX, ScannIndex, build_index
        from r2t2_jax.runs.files import publish

        bank = ReferenceBank.open(self.bank).only_correct()
        index = build_index(bank.embeddings, self.kind, self.metric, self.min_recall)
        publish(self.bank / INDEX, index.save)
        print(f"Wrote {self.bank / INDEX}: {len(index):,} references, {self.metric}.")
        if isinstance(index, ScannIndex):
            print(f"Recall at 5 of held-out references: {index.recall:.3f}, with {index.parameters}.")
        else:
            print("Exact: nothing is missed.")
