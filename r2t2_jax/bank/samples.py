"""What strategies read of a reference beside its routing: the model's features and the answer's tokens.

They are arrays in memory, arrays on disk, or computed again from the images when asked for. Whoever needs them asks the
bank by row number and does not see the difference.

Axis letters: N bank size, n rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
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


@dataclass(frozen=True)
class StoredLeaf:
    """One leaf of the stored features or answers: its path in the tree, and the file that holds it.

    numpy's files know no bfloat16; such a leaf is stored as uint16 and `dtype` tells what it is.
    """

    path: str
    file: str
    dtype: str


def stored_leaves(name: str, tree: Any) -> list[StoredLeaf]:
    """How the leaves of a tree are stored under a name."""
    return [
        StoredLeaf(jax.tree_util.keystr(path), f"{name}/{number:02d}.npy", str(leaf.dtype))
        for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(tree))
    ]


def as_stored(tree: Any) -> list[np.ndarray]:
    """The leaves of a tree as numpy's files can hold them, in the order of `stored_leaves`."""
    leaves = map(np.asarray, jax.tree.leaves(tree))
    return [leaf.view(np.uint16) if leaf.dtype == jnp.bfloat16 else leaf for leaf in leaves]


def open_leaves(folder: Path, leaves: Sequence[StoredLeaf], like: Any) -> Any:
    """Memory-map stored leaves in the structure of `like`.

    Raises:
        R2T2Error: they are not those of `like`.
    """
    by_path = {leaf.path: leaf for leaf in leaves}
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(like)]
    if set(paths) != set(by_path):
        raise R2T2Error(
            f"{folder} stores the leaves {' '.join(sorted(by_path))}; this model has {' '.join(sorted(paths))}"
        )
    found = [np.load(folder / by_path[path].file, mmap_mode="r").view(jnp.dtype(by_path[path].dtype)) for path in paths]
    return jax.tree.unflatten(jax.tree.structure(like), found)
