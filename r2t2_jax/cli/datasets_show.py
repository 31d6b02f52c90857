"""`r2t2 datasets show`: a contact sheet of a set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

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
        from r2t2_jax.datasets.catalog import SOURCES
        from r2t2_jax.datasets.contact_sheet import contact_sheet
        from r2t2_jax.errors import R2T2Error

        samples, images = self._samples()
        source = SOURCES.get(self.name)
        notes = [f"{len(samples)} questions, seed {self.seed}"]
        if source is not None:
            notes.append(f"{source.title}. Licence: {source.licence}. {source.home}")
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
        from r2t2_jax.datasets.catalog import SOURCES, find_source
        from r2t2_jax.datasets.official_samples import official_samples
        from r2t2_jax.datasets.prepared import glance
        from r2t2_jax.errors import R2T2Error

        if self.n < 1:
            raise R2T2Error(f"the number of questions must be at least 1, not {self.n}")
        if self.manual_dir is not None:
            return official_samples(find_source(self.name), self.manual_dir, self.split, self.n, self.seed)
        if self.name in SOURCES:
            return glance(SOURCES[self.name], self.split, self.n, self.seed), True
        return load_dataset(self.name, self.split, self.n, self.seed), True
