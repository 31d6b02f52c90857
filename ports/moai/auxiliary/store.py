"""Auxiliary records on disk: one Parquet file with a row an image, and the segment maps as PNG.

records.parquet    key, id, and each part as JSON: null where no model was asked for it
maps/KEY.png       the segment's number at each pixel, 8 bit
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ports.moai.auxiliary.record import PARTS, AuxRecord, Detection, Line, Relation, Scene, Segment
from r2t2_jax.errors import R2T2Error

TABLE, MAPS = "records.parquet", "maps"


def to_row(record: AuxRecord) -> dict[str, Any]:
    """A record as a row: its parts as JSON, its map as PNG."""
    row: dict[str, Any] = {
        "key": record.key,
        "id": record.id,
        "map": None if record.map is None else to_png(record.map),
    }
    for name in PARTS:
        part = getattr(record, name)
        row[name] = None if part is None else json.dumps(_plain(part))
    return row


def _plain(part: Any) -> Any:
    return dataclasses.asdict(part) if isinstance(part, Scene) else [dataclasses.asdict(entry) for entry in part]


def from_row(row: Mapping[str, Any], map: UInt8[np.ndarray, "size size"] | None) -> AuxRecord:
    """The record that `to_row` wrote."""
    parts = {name: None if row[name] is None else json.loads(row[name]) for name in PARTS}
    scene = parts["scene"]
    return AuxRecord(
        key=row["key"],
        id=row["id"],
        map=map,
        segments=_all(Segment, parts["segments"]),
        detections=_all(Detection, parts["detections"]),
        scene=scene and Scene(tuple(scene["objects"]), _all(Relation, scene["relations"]) or ()),
        lines=_all(Line, parts["lines"]),
    )


def _all(kind: Any, entries: list[dict[str, Any]] | None) -> Any:
    if entries is None:
        return None
    return tuple(kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}) for entry in entries)


def to_png(map: UInt8[np.ndarray, "size size"]) -> bytes:
    """A map as an 8 bit grey image."""
    packed = io.BytesIO()
    Image.fromarray(np.asarray(map, np.uint8)).save(packed, "PNG")
    return packed.getvalue()


@dataclass(frozen=True)
class CachedRecords:
    """The provider that asks no model: what is stored, by the image's digest."""

    folder: Path
    rows: Mapping[str, Mapping[str, Any]]
    fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> CachedRecords:
        """Read a folder of records; maps are read as they are asked for.

        Raises:
            R2T2Error: it holds none, or its table is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / TABLE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            rows = {row["key"]: row for row in pq.read_table(path).to_pylist()}
        except (OSError, pa.ArrowException, KeyError) as error:
            raise R2T2Error(f"{folder} holds no auxiliary records ({error}); make them with r2t2 aux build") from error
        return cls(folder, rows, digest)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The stored record of an image.

        Raises:
            R2T2Error: there is none, or its map is damaged.
        """
        row = self.rows.get(record.key)
        if row is None:
            raise R2T2Error(
                f"no auxiliary record of image {record.key} among the {len(self.rows):,} in {self.folder}; "
                "run r2t2 aux build on its question set"
            )
        return from_row(row, self._map(record.key) if row["segments"] is not None else None)

    def _map(self, key: str) -> UInt8[np.ndarray, "size size"]:
        path = self.folder / MAPS / f"{key}.png"
        try:
            with Image.open(path) as file:
                return np.asarray(file.convert("L"))
        except (OSError, ValueError) as error:
            raise R2T2Error(f"{path} cannot be read ({error}); run r2t2 aux build again") from error

    def missing_parts(self) -> list[str]:
        """Parts that no stored record has: their models were never asked."""
        return [name for name in PARTS if all(row[name] is None for row in self.rows.values())]
