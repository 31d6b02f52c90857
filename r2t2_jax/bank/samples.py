"""What strategies read of a reference beside its routing: the model's features and the answer's tokens.

They are arrays in memory, arrays on disk, or computed again from the images when asked for. Whoever needs them asks the
bank by row number and does not see the difference.

Axis letters: N bank size, n rows asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Int

from r2t2_jax.contract import Answer, Features
from r2t2_jax.errors import R2T2Error

Rows = Int[np.ndarray, "n"]


class SampleReader(Protocol):
    """Features and answers of bank rows; every leaf has a leading axis n. Rows may repeat."""

    def __call__(self, rows: Rows) -> tuple[Features, Answer]: ...


@dataclass(frozen=True)
class StoredSamples:
    """Features and answers in arrays with a leading axis N, in memory or memory-mapped."""

    features: Features
    answers: Answer

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        return jax.tree.map(lambda leaf: leaf[rows], (self.features, self.answers))


@dataclass(frozen=True)
class Chosen:
    """Some rows of another reader."""

    reader: SampleReader
    rows: Rows

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        return self.reader(self.rows[rows])


@dataclass(frozen=True)
class Joined:
    """Readers of banks laid end to end; `starts` has the first row of each."""

    readers: Sequence[SampleReader]
    starts: Rows

    def __call__(self, rows: Rows) -> tuple[Features, Answer]:
        owner = np.searchsorted(self.starts, rows, side="right") - 1
        parts = [(i, np.flatnonzero(owner == i)) for i in np.unique(owner)]
        found = [self.readers[i](rows[places] - self.starts[i]) for i, places in parts]
        back = np.argsort(np.concatenate([places for _, places in parts]))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *found)


def write_arrays(folder: Path, name: str, tree: Any) -> dict[str, str]:
    """Write every leaf as `<name>/<number>.npy`; the file of each leaf by its path in the tree."""
    (folder / name).mkdir()
    files = {}
    for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree)):
        files[jax.tree_util.keystr(path)] = f"{name}/{number:02d}.npy"
        np.save(folder / name / f"{number:02d}.npy", np.asarray(leaf))
    return files


def open_arrays(folder: Path, files: Mapping[str, str], like: Any) -> Any:
    """Memory-map the leaves written by `write_arrays`, in the structure of `like`.

    Raises:
        R2T2Error: the stored leaves are not those of `like`.
    """
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if set(paths) != set(files):
        raise R2T2Error(
            f"{folder} stores the leaves {' '.join(sorted(files))}; this model has {' '.join(sorted(paths))}"
        )
    leaves = [np.load(folder / files[path], mmap_mode="r") for path in paths]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
