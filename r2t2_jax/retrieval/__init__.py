"""Nearest references of a question: exact and approximate search behind one protocol."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.retrieval.exact import FILE, ExactIndex, matches, read_index
from r2t2_jax.retrieval.protocol import Hits, Index, Metric, ball
from r2t2_jax.retrieval.scann import ScannIndex
from r2t2_jax.runs.atomic_io import check_only_own

INDEX = "index"  # folder of the index in a bank
SCANN_FILES = (".npy", ".pb", ".pbtxt")
Kind = Literal["auto", "exact", "scann"]
# Numbers of references, and of questions from which a ScaNN index of that many pays for its build (docs/bank.md): then
# `auto` uses it.
BREAK_EVEN = ((500_000, 20_000), (45_000, 50_000))


def build_index(
    embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"],
    kind: Kind = "auto",
    metric: Metric = "cosine",
    min_recall: float = 0.0,
    queries: int = 0,
) -> Index:
    """An index of references.

    Args:
        embeddings: of the references.
        kind: `exact`, `scann`, or `auto`: ScaNN if it is installed, and faster for that many queries with its build.
        metric: cosine, dot or l2.
        min_recall: refuse an approximate index that finds fewer of the 5 nearest.
        queries: number of queries that the index will answer, as far as it is known.

    Raises:
        R2T2Error: unknown kind, embeddings that do not fit the metric, ScaNN missing, or too low a recall.
    """
    if kind == "auto":
        pays = any(len(embeddings) >= references and queries >= least for references, least in BREAK_EVEN)
        kind = "scann" if pays and find_spec("scann") else "exact"
    if kind == "exact":
        return ExactIndex.build(embeddings, metric)
    if kind == "scann":
        return ScannIndex.build(np.asarray(embeddings), metric, min_recall)
    raise R2T2Error(f"unknown index {kind!r}; choose one of auto, exact, scann")


def check_index_folder(path: Path) -> None:
    """Check that an index may be written to a directory: it does not exist, is empty, or holds an index.

    Raises:
        R2T2Error: it holds something else.
    """
    check_only_own(path, is_own, "an index", (FILE,))


def is_own(name: str) -> bool:
    """Whether an index has a file of this name: its description, or one of ScaNN's."""
    return name == FILE or (Path(name).suffix in SCANN_FILES and "/" not in name)


def saved_index(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> Index | None:
    """The index saved in a directory, if there is one for these embeddings; raises as `load_index` does."""
    if not (path / FILE).exists() or not matches(path, embeddings):
        return None
    return load_index(path, embeddings)


def load_index(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> Index:
    """The index saved in a directory for these embeddings.

    Raises:
        R2T2Error: it is incomplete, damaged, of an unknown kind, or was built for other embeddings.
    """
    content = read_index(path, embeddings)
    if content["kind"] == "exact":
        return ExactIndex.build(embeddings, content["metric"])
    if content["kind"] == "scann":
        return ScannIndex.load(path, np.asarray(embeddings))
    raise R2T2Error(f"{path} holds an index of unknown kind {content['kind']!r}; build it again")


__all__ = [
    "INDEX",
    "ExactIndex",
    "Hits",
    "Index",
    "ScannIndex",
    "ball",
    "build_index",
    "check_index_folder",
    "load_index",
    "saved_index",
]
