"""What the recipe has made so far, on disk: finished stages and, inside a long stage, its last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def save_leaves(path: Path, tree: Tree) -> None:
    """Write a pytree's leaves in order; the file appears whole or not at all."""
    half = path.with_suffix(".half.npz")
    leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
    with open(half, "wb") as file:
        np.savez(file, **leaves)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def load_leaves(path: Path, like: Tree) -> Tree:
    """Read what `save_leaves` wrote into the structure of `like`."""
    with np.load(path) as file:
        leaves = [jnp.asarray(file[f"leaf{i}"]) for i in range(len(jax.tree.leaves(like)))]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


@dataclass(frozen=True)
class Workbench:
    """A folder with the stages of one recipe; `recipe` names everything that shapes the result."""

    folder: Path
    recipe: str

    def open(self) -> Workbench:
        """Make the folder; one that belongs to another recipe is refused."""
        self.folder.mkdir(parents=True, exist_ok=True)
        label = self.folder / "recipe.txt"
        if label.exists() and label.read_text(encoding="utf-8") != self.recipe:
            there = label.read_text(encoding="utf-8")
            raise SystemExit(
                f"{self.folder} holds another recipe:\n  there {there}\n  here  {self.recipe}\n"
                "choose another --work folder or delete this one"
            )
        label.write_text(self.recipe, encoding="utf-8")
        return self

    def stage(self, name: str, make: Callable[[Path], Tree], like: Tree) -> Tree:
        """The stage's result: read if it is finished, else made; `make` is given the file for its checkpoints."""
        done = self.folder / f"{name}.npz"
        if not done.exists():
            running = self.folder / f"{name}.checkpoint.npz"
            save_leaves(done, make(running))
            running.unlink(missing_ok=True)
        return load_leaves(done, like)
