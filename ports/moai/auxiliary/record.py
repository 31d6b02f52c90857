"""What is known about one image beside its pixels."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Segment:
    """A panoptic segment: its number in the map, and its class (COCO panoptic, counted from 0)."""

    id: int
    label: int


@dataclass(frozen=True)
class Detection:
    """A detected object: box [x0, y0, x1, y1] in pixels of the image as the model sees it, `label` a query's number."""

    score: float
    label: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Relation:
    """`subject` does `predicate` to `object`: numbers of the scene's objects, a predicate counted from 0, its score."""

    subject: int
    object: int
    predicate: int
    score: float


@dataclass(frozen=True)
class Scene:
    """A scene graph: classes of its objects (COCO panoptic, counted from 0) and what relates them."""

    objects: tuple[int, ...] = ()
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of text and how sure its reader is."""

    text: str
    score: float


@dataclass(frozen=True, eq=False)
class AuxRecord:
    """What each of the four auxiliary models found; `None` where none was asked, which is not the same as nothing.

    `key` names the image (`image_key`), `id` the sample it was first seen in. `map` holds the number of the segment at
    each pixel, 0 for none, at the size in which the model sees images.
    """

    key: str
    id: str = ""
    map: UInt8[np.ndarray, "size size"] | None = None
    segments: tuple[Segment, ...] | None = None
    detections: tuple[Detection, ...] | None = None
    scene: Scene | None = None
    lines: tuple[Line, ...] | None = None


PARTS = ("segments", "detections", "scene", "lines")


def image_key(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """An image's name in the store: a digest of its pixels, so that any set which holds the image finds its record."""
    described = f"{image.shape[0]}x{image.shape[1]}:".encode()
    return hashlib.sha256(described + np.ascontiguousarray(image, np.uint8).tobytes()).hexdigest()[:32]


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    text = (Path(__file__).parent / "labels.json").read_text(encoding="utf-8")
    return {name: tuple(labels) for name, labels in json.loads(text).items()}


def panoptic_classes() -> tuple[str, ...]:
    """The 133 classes of COCO panoptic."""
    return _lists()["COCO_PANOPTIC_CLASSES"]


def predicates() -> tuple[str, ...]:
    """The 56 predicates of Panoptic Scene Graphs."""
    return _lists()["PREDICATES"]


def detection_queries() -> tuple[str, ...]:
    """What the detector is asked for: ADE20K's 847 names, then ImageNet's 1000."""
    return _lists()["OD_LABELS_ADE20K847_THEN_IMAGENET1000"]


def plain_name(label: str) -> str:
    """A COCO panoptic label without its suffixes: `sky-other-merged` is `sky`."""
    for suffix in ("-merged", "-other", "-stuff"):
        label = label.removesuffix(suffix)
    return label


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


def fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Resized by PIL's bilinear filter, whatever the aspect ratio, as in upstream's benchmarks."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
