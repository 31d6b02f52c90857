"""The loss atlas of a bank: every reference's bounded loss at G fixed routing points, in eight bits.

The table is read as one of two losses (`AtlasLoss`): the bounded loss b = 1 - exp(-l) that it stores, or the
cross-entropy l = -log(1 - b). The highest step includes b = 1, where l is infinite; it is read as its lower edge, half
a step below 1, so that no l exceeds log 510 = 6.23 nats.

On disk it is a folder (`atlas/` inside a bank directory): `atlas.json` (settings, checksums), `points.npy` [G, L, E],
`losses.npy` uint8 [N, G] and, if they were computed, `slopes.npy` float16 [N, L, E].

Axis letters: N references, n of them, B test samples, K neighbors, G points, L routed layers, E experts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from r2t2_jax.bank.manifest import FileDigest, check_file, digest
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, LEVELS, AtlasLoss, PointsMode
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.atomic_io import atomic_folder, check_only_own
from r2t2_jax.runtime.typed_files import FLOATING, open_array, path_below
from r2t2_jax.runtime.typed_json import open_json, read_json

ATLAS = "atlas"  # folder inside a bank directory
FILES = ("atlas.json", "points.npy", "losses.npy", "slopes.npy", "ids.json")
SCHEMA = 1
AGAIN = "run `r2t2 bank atlas`"


@dataclass(frozen=True)
class Atlas:
    """Losses of references at fixed routing points.

    Args:
        points: routing weights [G, L, E].
        losses: 1 - exp(-l) in steps of 1/255, one row per reference.
        slopes: gradients of the bounded loss with respect to r at each reference's own routing; `None` if not computed.
        model_fingerprint: of the model that computed the losses.
        experts: names of its experts.
        ids: of the references, one per row.
        bank: digest of the `bank.json` that it was built for; empty if it was built for a bank in memory.
        mode: `replace` if the points are routing weights, `shift` if they are added to a sample's own logits,
            `mixture` if they are mixed with a sample's own weights (`method.search.atlas_points.mixed`).

    Raises:
        R2T2Error: the shapes of the arrays do not agree.
    """

    points: Float[np.ndarray, "G L E"]
    losses: UInt8[np.ndarray, "N G"]
    slopes: Float[np.ndarray, "N L E"] | None
    model_fingerprint: str
    experts: tuple[str, ...]
    ids: tuple[str, ...]
    bank: str = ""
    mode: PointsMode = "replace"

    def __post_init__(self) -> None:
        rows, points = self.losses.shape
        if points != len(self.points) or rows != len(self.ids):
            raise R2T2Error(
                f"an atlas of {rows} rows and {points} columns does not fit {len(self.ids)} references "
                f"and {len(self.points)} points; build it again with `r2t2 bank atlas`"
            )

    def __len__(self) -> int:
        return len(self.losses)

    def rows(self, rows: Int[np.ndarray, "*n"], loss: AtlasLoss = "bounded") -> Float[np.ndarray, "*n G"]:
        """Losses of the given references at every point: bounded losses in [0, 1], or cross-entropy in nats."""
        return DEQUANTIZE[loss][self.losses[rows]]

    def mean(self, loss: AtlasLoss = "bounded") -> Float[np.ndarray, "G"]:
        """The mean loss of all references at every point, the loss of a constant routing."""
        return self.rows(np.arange(len(self)), loss).mean(axis=0, dtype=np.float64).astype(np.float32)

    def take(self, rows: Int[np.ndarray, "n"]) -> Atlas:
        """The atlas of the given rows, in that order."""
        slopes = None if self.slopes is None else self.slopes[rows]
        return replace(self, losses=self.losses[rows], slopes=slopes, ids=tuple(self.ids[i] for i in rows))

    def of(self, ids: list[str]) -> Atlas:
        """The atlas of the references with these ids, in that order.

        Raises:
            R2T2Error: a reference has no row.
        """
        rows = {name: row for row, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in rows]
        if missing:
            raise R2T2Error(
                f"the atlas has no row for {len(missing)} of {len(ids)} references, first {missing[0]!r}; "
                "build it again with `r2t2 bank atlas`"
            )
        return self if tuple(ids) == self.ids else self.take(np.array([rows[name] for name in ids]))

    def check(self, model_fingerprint: str, spec: RoutingSpec) -> None:
        """Check that the atlas belongs to a model, with its experts and layers.

        Raises:
            R2T2Error: the atlas belongs to another model; the message names both.
        """
        if self.model_fingerprint != model_fingerprint:
            raise R2T2Error(
                f"the atlas was built for {self.model_fingerprint}, this is {model_fingerprint}; "
                "build it again with `r2t2 bank atlas`"
            )
        if self.experts != spec.experts or self.points.shape[1:] != spec.shape:
            description = f"{self.points.shape[1]} layers of {', '.join(self.experts)}"
            raise R2T2Error(
                f"the atlas was built for {description}; "
                f"this model has {spec.num_layers} layers of {', '.join(spec.experts)}"
            )


def quantize(losses: Float[np.ndarray, "n G"], ids: list[str]) -> UInt8[np.ndarray, "n G"]:
    """Bounded losses rounded to eight bits.

    Raises:
        R2T2Error: a loss is NaN (the reference is named).
    """
    bad = np.flatnonzero(np.isnan(losses).any(axis=1))
    if len(bad):
        point = int(np.flatnonzero(np.isnan(losses[bad[0]]))[0])
        raise R2T2Error(
            f"the loss of reference {ids[bad[0]]!r} (row {bad[0]}) is NaN at point {point}, "
            f"and {len(bad)} rows hold NaN in total; remove these references or check the model"
        )
    return np.rint(np.clip(losses, 0.0, 1.0) * LEVELS).astype(np.uint8)


def save_atlas(atlas: Atlas, folder: Path, settings: dict[str, Any]) -> None:
    """Write the atlas folder atomically, replacing an earlier one; `settings` are stored in `atlas.json`.

    Raises:
        R2T2Error: the folder cannot be written, or holds something else than an atlas.
    """
    check_atlas_folder(folder)

    def write(draft: Path) -> None:
        for name, array in {"points": atlas.points, "losses": atlas.losses, "slopes": atlas.slopes}.items():
            if array is not None:
                np.save(draft / f"{name}.npy", array)
        (draft / "ids.json").write_text(json.dumps(atlas.ids) + "\n", encoding="utf-8", newline="\n")
        description = {
            "schema": SCHEMA,
            "model": atlas.model_fingerprint,
            "experts": atlas.experts,
            "mode": atlas.mode,
            "points": len(atlas.points),
            "references": len(atlas),
            "bank": atlas.bank,
            "made": settings,
            "files": {path.name: asdict(digest(path)) for path in sorted(draft.iterdir())},
        }
        (draft / "atlas.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8", newline="\n")

    try:
        atomic_folder(folder, write)
    except OSError as error:
        raise R2T2Error(f"cannot write {folder}: {error.strerror}") from error


def check_atlas_folder(folder: Path) -> None:
    """Check, before any work is done, that an atlas may be written to a folder; raises as `save_atlas`."""
    check_only_own(folder, FILES.__contains__, "a loss atlas", FILES[:1])


def open_atlas(folder: Path) -> Atlas:
    """The atlas in a folder, with its table memory-mapped.

    Raises:
        R2T2Error: the folder has no atlas, or one that is incomplete, damaged or of another schema version.
    """
    description = _read_description(folder)
    for name, entry in description.files.items():
        check_file(path_below(folder, name, str(folder / "atlas.json")), entry)
    rows, experts = description.references, len(description.experts)
    points = np.array(open_array(folder / "points.npy", FLOATING, (description.points, None, experts), AGAIN))
    slopes, layers = folder / "slopes.npy", points.shape[1]
    if not np.isfinite(points).all() or (description.mode != "shift" and points.min(initial=0) < 0):
        raise R2T2Error(f"{folder / 'points.npy'} holds NaN, infinity or negative routing weights; {AGAIN}")
    return Atlas(
        points=points,
        losses=open_array(folder / "losses.npy", ("uint8",), (rows, description.points), AGAIN),
        slopes=open_array(slopes, FLOATING, (rows, layers, experts), AGAIN) if slopes.exists() else None,
        model_fingerprint=description.model,
        experts=description.experts,
        ids=read_json(folder / "ids.json", tuple[str, ...], AGAIN),
        bank=description.bank,
        mode=description.mode,
    )


@dataclass(frozen=True)
class _AtlasFile:
    """The content of `atlas.json`."""

    schema: int
    model: str
    experts: tuple[str, ...]
    points: int
    references: int
    made: dict[str, Any]
    files: dict[str, FileDigest]
    bank: str = ""
    mode: PointsMode = "replace"


def _read_description(folder: Path) -> _AtlasFile:
    file = folder / "atlas.json"
    if not file.exists():
        raise R2T2Error(f"{folder} holds no loss atlas ({file} is missing); {AGAIN}")
    try:
        document = open_json(file, AGAIN)
        schema = document.member("schema")
    except R2T2Error as error:
        raise R2T2Error(f"the loss atlas in {folder} cannot be read ({error})") from error
    if schema != SCHEMA or isinstance(schema, bool):
        raise R2T2Error(f"{folder} has schema version {schema}, this program reads {SCHEMA}; {AGAIN}")
    description = document.as_type(_AtlasFile)
    if absent := {"points.npy", "losses.npy", "ids.json"} - set(description.files):
        raise R2T2Error(f"{file}: 'files' lacks {', '.join(sorted(absent))}; {AGAIN}")
    return description
