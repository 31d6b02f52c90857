"""`r2t2 bank atlas`: every reference's loss at a few routing points, so that re-routing needs no model pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


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
        from r2t2_jax.evaluation.reencode import with_samples
        from r2t2_jax.evaluation.tabulate import AtlasPlan, make_atlas
        from r2t2_jax.loading import load

        plan = AtlasPlan(self.points, self.candidates, self.choosing, self.k, self.batch_size, self.seed)
        port = load(self.model)
        bank = with_samples(ReferenceBank.open(self.bank), port)  # whatever embedded the questions
        atlas = make_atlas(port.model, port.params, bank, self.bank / ATLAS, plan, self.max_hours)
        few = "" if len(atlas.points) == self.points else f" ({self.points} were asked, there are no more candidates)"
        print(f"Wrote an atlas of {len(atlas):,} references at {len(atlas.points)} points{few} to {self.bank}/atlas.")
        wrong = len(bank) - int(bank.right.sum())
        if not wrong:
            print("No reference is answered wrongly: the atlas knows nothing of what this router gets wrong.")
