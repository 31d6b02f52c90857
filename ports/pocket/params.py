"""The weights that ship with the package: shared parameters and two gates, checked before they are used.

`weights/model.json` holds config, vocabulary, embedder settings, the measurements of training, the sha256 of
`weights/weights.npz`, and the fingerprint that names the model in banks and atlases. An array's name is its path in the
NNX state; gates are stored under `gates/NAME/`.
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

from ports.common.checkpoint.mapping import path_name
from ports.pocket.config import PocketConfig
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import read_json

GATES = ("narrow", "balanced")
SPARSE = "sparse"  # the variant with another architecture
FOLDER = Path(__file__).parent / "weights"
_REBUILD = "reinstall the package, or rebuild the weights with python -m ports.pocket.training.train"


@dataclass(frozen=True)
class Weights:
    """The content of the weights folder."""

    config: PocketConfig
    words: tuple[str, ...]
    arrays: Mapping[str, np.ndarray]
    embedding_layer: int
    embedding_mean: Float[np.ndarray, "2 D"]
    embedding_spread: Float[np.ndarray, "2 D"]
    presets: Mapping[str, Any]  # from presets.json: chosen by `benchmarks/tune_pocket.py` on validation questions
    fingerprint: str

    def fill(self, abstract: Any, gate: str) -> Any:
        """`abstract` with every shape replaced by its array; `gate` is the name of the gate to use.

        Raises:
            R2T2Error: an array is missing, unknown or has another shape.
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


def read_weights(folder: Path = FOLDER) -> Weights:
    """Read and check the shipped weights.

    Raises:
        R2T2Error: a file is missing or damaged.
    """
    try:
        described = read_object(folder / "model.json")
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
            presets=read_object(folder / "presets.json"),
            arrays=arrays,
            fingerprint=described["fingerprint"],
        )
    except R2T2Error:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"pocket weights in {folder} cannot be read ({error}); {_REBUILD}") from error


def read_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file of the weights folder.

    Raises:
        R2T2Error: the file is missing or damaged.
    """
    try:
        return read_json(file, dict)
    except R2T2Error as error:
        raise R2T2Error(f"pocket weights cannot be read ({error}); {_REBUILD}") from error


def write_weights(
    folder: Path, config: PocketConfig, words: tuple[str, ...], arrays: Mapping[str, np.ndarray], **facts: Any
) -> None:
    """Write `weights.npz` and `model.json`; `facts` are additional fields of `model.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(packed, **named)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    described = {"config": asdict(config), "words": words, "sha256": digest, "fingerprint": digest[:8], **facts}
    (folder / "weights.npz").write_bytes(packed.getvalue())
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8", newline="\n")
