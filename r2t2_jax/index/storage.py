"""An index on disk: `index.json`, and beside it what its search structure needs. The embeddings stay with the bank."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:
    from r2t2_jax.index.protocol import Index

FILE = "index.json"
SAMPLED = 256  # rows that stand for all


def write_index(path: Path, kind: str, index: Index, facts: Mapping[str, Any]) -> None:
    """Write `index.json`, last of all: an index that has it is complete."""
    path.mkdir(parents=True, exist_ok=True)
    content = {"kind": kind, "metric": index.metric, "embeddings": sample_digest(index.embeddings), **facts}
    (path / FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_index(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> dict[str, Any]:
    """What `write_index` wrote.

    Raises:
        R2T2Error: there is no index, it is damaged, or it was built for other embeddings.
    """
    content = _read(path)
    if content["embeddings"] != sample_digest(embeddings):
        raise R2T2Error(f"{path} was built for other embeddings than these; build the index again")
    return content


def fits(path: Path, embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> bool:
    """Whether the index in a directory was built for these embeddings; raises where it is damaged."""
    return _read(path)["embeddings"] == sample_digest(embeddings)


def _read(path: Path) -> dict[str, Any]:
    file = path / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        known = {"kind", "metric", "embeddings"} <= set(content)
    except FileNotFoundError:
        raise R2T2Error(f"{path} holds no complete index: it has no {FILE}; build it again") from None
    except (OSError, ValueError, TypeError) as error:
        raise R2T2Error(f"{file} is damaged ({error}); build the index again") from error
    if not known:
        raise R2T2Error(f"{file} is damaged: it does not say what it is an index of; build the index again")
    return content


def sample_digest(embeddings: Float[np.ndarray, "N M"] | Float[Array, "N M"]) -> str:
    """SHA-256 of the shape and of rows spread evenly over the array."""
    rows = np.linspace(0, len(embeddings) - 1, min(SAMPLED, len(embeddings))).astype(int)
    sample = np.ascontiguousarray(np.asarray(embeddings[rows], np.float32))
    return hashlib.sha256(repr(tuple(embeddings.shape)).encode() + sample.tobytes()).hexdigest()
