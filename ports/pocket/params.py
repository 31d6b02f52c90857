"""The weights that ship with the package: one trunk, two gates, checked before they are used.

`weights/model.json` holds config, vocabulary, embedder settings, what training measured, and the digest of
`weights/weights.npz`; an array's name is its path in the NNX state, gates stand under `gates/NAME/`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ports.pocket.config import PocketConfig
from r2t2_jax.errors import R2T2Error

GATES = ("narrow", "balanced")
FOLDER = Path(__file__).parent / "weights"
_REBUILD = "reinstall the package, or rebuild the weights with python -m ports.pocket.training.train"


@dataclass(frozen=True)
class Weights:
    """What is on disk, checked against its digest."""

    config: PocketConfig
    words: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    embedding_layer: int
    embedding_mean: Float[np.ndarray, "2 D"]
    embedding_spread: Float[np.ndarray, "2 D"]
    presets: Mapping[str, Any]  # from presets.json: what `benchmarks/tune_pocket.py` chose on validation questions
    digest: str

    def fill(self, abstract: Any, gate: str) -> Any:
        """Put the arrays in place of the shapes.

        Raises:
            R2T2Error: an array is missing, left over or misshaped.
        """
        own = f"gates/{gate}/"
        arrays = {name: value for name, value in self.arrays.items() if not name.startswith("gates/")}
        for name, value in self.arrays.items():
            if name.startswith(own):
                arrays[f"gate/{name.removeprefix(own)}"] = value

        def put(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
            name = path_name(path)
            if name not in arrays:
                raise R2T2Error(f"pocket weights have no array {name!r}; {_REBUILD}")
            value = arrays.pop(name)
            if value.shape != leaf.shape:
                raise R2T2Error(f"pocket weights: {name} has shape {value.shape}, not {leaf.shape}; {_REBUILD}")
            return jnp.asarray(value, leaf.dtype)

        filled = jax.tree_util.tree_map_with_path(put, abstract)
        if arrays:
            raise R2T2Error(f"pocket weights hold unknown arrays {sorted(arrays)}; {_REBUILD}")
        return filled


def path_name(path: tuple) -> str:
    """`blocks/0/query/kernel` for a path of jax.tree_util."""
    parts = (getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None))) for entry in path)
    return "/".join(str(part) for part in parts if part != "value")


def read_weights(folder: Path = FOLDER) -> Weights:
    """Read and check the shipped weights.

    Raises:
        R2T2Error: a file is missing or damaged.
    """
    try:
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        packed = (folder / "weights.npz").read_bytes()
        digest = hashlib.sha256(packed).hexdigest()
        if digest != described["sha256"]:
            raise R2T2Error(f"pocket weights in {folder} are damaged (sha256 {digest[:8]}...); {_REBUILD}")
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        config: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in described["config"].items()
        }
        return Weights(
            config=PocketConfig(**config),
            words=tuple(described["words"]),
            embedding_layer=int(described["embedding"]["layer"]),
            embedding_mean=arrays.pop("embedding/mean"),
            embedding_spread=arrays.pop("embedding/spread"),
            presets=json.loads((folder / "presets.json").read_text(encoding="utf-8")),
            arrays=arrays,
            digest=digest,
        )
    except R2T2Error:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"pocket weights in {folder} cannot be read ({error}); {_REBUILD}") from error


def write_weights(
    folder: Path, config: PocketConfig, words: tuple[str, ...], arrays: Mapping[str, np.ndarray], **facts: Any
) -> None:
    """Write both files; `facts` go into model.json beside config, vocabulary and digest."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(packed, **named)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    described = {"config": asdict(config), "words": words, "sha256": digest, **facts}
    (folder / "weights.npz").write_bytes(packed.getvalue())
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
