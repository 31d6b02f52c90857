"""`r2t2 datasets prepare`: official files to a prepared set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # the parser alone must start fast
    from r2t2_jax.datasets.prepare import Outcome

NAMED = 20  # bad records told one by one


@dataclass(frozen=True)
class PrepareDataset:
    """Check the official files of a set, questions and images, and store them for use.

    Nothing is downloaded: get the files from the set's home page, under its licence (r2t2 datasets list --files). A set
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
        from r2t2_jax.datasets.catalog import find_source
        from r2t2_jax.datasets.prepare import prepare
        from r2t2_jax.datasets.prepared import data_folder
        from r2t2_jax.datasets.survey import BadRecord
        from r2t2_jax.errors import R2T2Error

        source = find_source(self.name)
        options = (self.split, self.n, self.seed, self.skip_bad)
        try:
            for outcome in prepare(source, self.manual_dir, data_folder(self.data_dir), *options):
                print("\n".join(_lines(self.name, outcome)))
        except BadRecord as error:
            raise R2T2Error(f"{error} (--skip-bad leaves such records out)") from error


def _lines(name: str, outcome: Outcome) -> list[str]:
    """What came of a split; the bad records first."""
    count = len(outcome.skipped)
    lines = [f"left out: {cause}" for cause in outcome.skipped[:NAMED]]
    lines += [f"left out: {count - NAMED:,} more"] if count > NAMED else []
    if outcome.unit is None:
        return [*lines, f"{name} {outcome.split}: not here: {outcome.missing}"]
    without = f", {count:,} left out" if count else ""
    before = " was prepared before; remove that folder to prepare it again" if outcome.was_there else ""
    unit = outcome.unit
    return [*lines, f"{name} {unit.name}: {unit.count:,} questions{without}: {unit.path}{before}"]
