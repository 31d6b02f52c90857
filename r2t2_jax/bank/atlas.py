"""The loss atlas of a bank: every reference's bounded loss at G fixed routing points, in eight bits.

The same table is read in two ways, as `AtlasLoss` names them: as the bounded loss b = 1 - exp(-l) that it holds, or as
the cross-entropy l = -log(1 - b). Eight bits cannot tell how near to 1 the highest step lies, where l is infinite: it
is read as its lower edge, half a step below 1, so that no l exceeds log 510 = 6.23 nats.

On disk, in a folder of its own (`atlas/` inside a bank directory): `atlas.json` (what it was made with, checksums),
`points.npy` [G, L, E], `losses.npy` uint8 [N, G] and, where they were computed, `slopes.npy` float16 [N, L, E].

Axis letters: N references, n of them, B test samples, K neighbours, G points, L routed layers, E experts.
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
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, LEVELS, AtlasLoss
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.atomic_io import atomic_write

ATLAS = "atlas"  # the folder's name inside a bank
SCHEMA = 1


@dataclass(frozen=True)
class Atlas:
    """Points and losses, with what they belong to.

    Args:
        points: routing weights [G, L, E].
        losses: 1 - exp(-l) in steps of 1/255, one row a reference.
        slopes: gradients of the bounded loss with respect to r at each reference's own routing; `None` where left out.
        model_fingerprint, experts, ids: the model, its experts and the references the rows belong to.

    Raises:
        R2T2Error: arrays disagree with each other.
    """

    points: Float[np.ndarray, "G L E"]
    losses: UInt8[np.ndarray, "N G"]
    slopes: Float[np.ndarray, "N L E"] | None
    model_fingerprint: str
    experts: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        rows, points = self.losses.shape
        if points != len(self.points) or rows != len(self.ids):
            raise R2T2Error(
                f"an atlas of {rows} rows and {points} columns does not fit {len(self.ids)} references "
                f"and {len(self.points)} points; make it again with `r2t2 bank atlas`"
            )

    def __len__(self) -> int:
        return len(self.losses)

    def rows(self, rows: Int[np.ndarray, "*n"], loss: AtlasLoss = "bounded") -> Float[np.ndarray, "*n G"]:
        """Losses of the given references at every point: bounded ones in [0, 1], or the cross-entropy in nats."""
        return DEQUANTIZE[loss][self.losses[rows]]

    def mean(self, loss: AtlasLoss = "bounded") -> Float[np.ndarray, "G"]:
        """The whole bank's mean loss at every point: what a constant routing would give."""
        return self.rows(np.arange(len(self)), loss).mean(axis=0, dtype=np.float64).astype(np.float32)

    def take(self, rows: Int[np.ndarray, "n"]) -> Atlas:
        """The given references, in that order."""
        slopes = None if self.slopes is None else self.slopes[rows]
        return replace(self, losses=self.losses[rows], slopes=slopes, ids=tuple(self.ids[i] for i in rows))

    def of(self, ids: list[str]) -> Atlas:
        """The rows of these references.

        Raises:
            R2T2Error: one of them has no row.
        """
        places = {name: place for place, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in places]
        if missing:
            raise R2T2Error(
                f"the atlas has no row for {len(missing)} of {len(ids)} references, {missing[0]!r} first; "
                "make it again with `r2t2 bank atlas`"
            )
        return self.take(np.array([places[name] for name in ids]))

    def check(self, model_fingerprint: str, spec: RoutingSpec) -> None:
        """Refuse another model, another gate or other experts.

        Raises:
            R2T2Error: it was made for something else; both are named.
        """
        if self.model_fingerprint != model_fingerprint:
            raise R2T2Error(
                f"the atlas was made for {self.model_fingerprint}, this is {model_fingerprint}; "
                "make it again with `r2t2 bank atlas`"
            )
        if self.experts != spec.experts or self.points.shape[1:] != spec.shape:
            theirs = f"{self.points.shape[1]} layers of {', '.join(self.experts)}"
            raise R2T2Error(
                f"the atlas was made for {theirs}, this model has {spec.num_layers} layers of {', '.join(spec.experts)}"
            )


def quantize(losses: Float[np.ndarray, "n G"], ids: list[str]) -> UInt8[np.ndarray, "n G"]:
    """Bounded losses in eight bits.

    Raises:
        R2T2Error: a loss is NaN; the reference is named.
    """
    bad = np.flatnonzero(np.isnan(losses).any(axis=1))
    if len(bad):
        point = int(np.flatnonzero(np.isnan(losses[bad[0]]))[0])
        raise R2T2Error(
            f"the loss of reference {ids[bad[0]]!r} (row {bad[0]}) is NaN at point {point}, "
            f"and {len(bad)} rows hold NaN in all; drop these references or look at the model"
        )
    return np.rint(np.clip(losses, 0.0, 1.0) * LEVELS).astype(np.uint8)


def save_atlas(atlas: Atlas, folder: Path, made: dict[str, Any]) -> None:
    """Write the folder whole or not at all, in place of an earlier one; `made` tells how it was made."""

    def write(draft: Path) -> None:
        draft.mkdir()
        for name, array in {"points": atlas.points, "losses": atlas.losses, "slopes": atlas.slopes}.items():
            if array is not None:
                np.save(draft / f"{name}.npy", array)
        (draft / "ids.json").write_text(json.dumps(atlas.ids) + "\n", encoding="utf-8")
        described = {
            "schema": SCHEMA,
            "model": atlas.model_fingerprint,
            "experts": atlas.experts,
            "points": len(atlas.points),
            "references": len(atlas),
            "made": made,
            "files": {path.name: asdict(digest(path)) for path in sorted(draft.iterdir())},
        }
        (draft / "atlas.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    atomic_write(folder, write)


def open_atlas(folder: Path) -> Atlas:
    """The atlas in a folder, its table memory-mapped.

    Raises:
        R2T2Error: there is none, or it is incomplete, damaged or of another schema version.
    """
    try:
        described = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
        if described["schema"] != SCHEMA:
            raise R2T2Error(f"{folder} has schema version {described['schema']}, this program reads {SCHEMA}")
        for name, entry in described["files"].items():
            check_file(folder / name, FileDigest(**entry))
        slopes = folder / "slopes.npy"
        return Atlas(
            points=np.load(folder / "points.npy"),
            losses=np.load(folder / "losses.npy", mmap_mode="r"),
            slopes=np.load(slopes, mmap_mode="r") if slopes.exists() else None,
            model_fingerprint=described["model"],
            experts=tuple(described["experts"]),
            ids=tuple(json.loads((folder / "ids.json").read_text(encoding="utf-8"))),
        )
    except FileNotFoundError as error:
        raise R2T2Error(f"{folder} holds no loss atlas ({error.filename} is missing); run `r2t2 bank atlas`") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(f"the loss atlas in {folder} cannot be read ({error}); run `r2t2 bank atlas`") from error
