"""Auxiliary records: their parts, their rows and maps on disk, and the provider that reads stored ones."""

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

PARTS = ("segments", "detections", "scene", "lines")
TABLE, MAPS = "records.parquet", "maps"


@dataclass(frozen=True)
class Segment:
    """A panoptic segment: its number in the map, and its class (COCO panoptic, counted from 0)."""

    id: int
    label: int


@dataclass(frozen=True)
class Detection:
    """A detected object: box [x0, y0, x1, y1] in pixels of the resized image, `label` the number of a query."""

    score: float
    label: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Relation:
    """`subject` and `object` are numbers of the scene's objects, `predicate` is counted from 0."""

    subject: int
    object: int
    predicate: int
    score: float


@dataclass(frozen=True)
class SceneGraph:
    """Classes of the objects (COCO panoptic, counted from 0) and the relations between them."""

    objects: tuple[int, ...] = ()
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True)
class TextLine:
    """A line of text and the reader's score."""

    text: str
    score: float


@dataclass(frozen=True, eq=False)
class AuxRecord:
    """The outputs of the four auxiliary models; `None` if the model was not run, empty if it found nothing.

    Args:
        key: of the image (`image_key`).
        id: of the first sample with this image.
        map: number of the segment at each pixel, 0 for none, at the size of the model's images.
        segments: panoptic segments.
        detections: detected objects.
        scene: the scene graph.
        lines: lines of text.
    """

    key: str
    id: str = ""
    map: UInt8[np.ndarray, "size size"] | None = None
    segments: tuple[Segment, ...] | None = None
    detections: tuple[Detection, ...] | None = None
    scene: SceneGraph | None = None
    lines: tuple[TextLine, ...] | None = None


def image_key(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """The key of an image's record: a digest of its pixels, so that every set with this image shares the record."""
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
    """The detector's queries: ADE20K's 847 class names, then ImageNet's 1000."""
    return _lists()["OD_LABELS_ADE20K847_THEN_IMAGENET1000"]


def plain_name(label: str) -> str:
    """A COCO panoptic label without its suffixes: `sky-other-merged` is `sky`."""
    for suffix in ("-merged", "-other", "-stuff"):
        label = label.removesuffix(suffix)
    return label


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
    return dataclasses.asdict(part) if isinstance(part, SceneGraph) else [dataclasses.asdict(entry) for entry in part]


def from_row(row: Mapping[str, Any], segment_map: UInt8[np.ndarray, "size size"] | None) -> AuxRecord:
    """The record that `to_row` wrote."""
    parts = {name: None if row[name] is None else json.loads(row[name]) for name in PARTS}
    scene = parts["scene"]
    return AuxRecord(
        key=row["key"],
        id=row["id"],
        map=segment_map,
        segments=_all(Segment, parts["segments"]),
        detections=_all(Detection, parts["detections"]),
        scene=scene and SceneGraph(tuple(scene["objects"]), _all(Relation, scene["relations"]) or ()),
        lines=_all(TextLine, parts["lines"]),
    )


def _all(kind: Any, entries: list[dict[str, Any]] | None) -> Any:
    if entries is None:
        return None
    return tuple(kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}) for entry in entries)


def to_png(segment_map: UInt8[np.ndarray, "size size"]) -> bytes:
    """A map as an 8-bit grayscale PNG."""
    packed = io.BytesIO()
    Image.fromarray(np.asarray(segment_map, np.uint8)).save(packed, "PNG")
    return packed.getvalue()


@dataclass(frozen=True)
class CachedRecords:
    """The provider that reads stored records, by the image's key."""

    folder: Path
    rows: Mapping[str, Mapping[str, Any]]
    fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> CachedRecords:
        """Open a folder of records; maps are read when they are needed.

        Raises:
            R2T2Error: it contains no records, or its table is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = folder / TABLE
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
            rows = {row["key"]: row for row in pq.read_table(path).to_pylist()}
        except (OSError, pa.ArrowException, KeyError) as error:
            raise R2T2Error(
                f"{folder} contains no auxiliary records ({error}); make them with r2t2 aux build"
            ) from error
        return cls(folder, rows, digest)

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The stored record of an image.

        Raises:
            R2T2Error: there is no record of the image, or its map is damaged.
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
        """Parts that no stored record has, because their models were not run."""
        return [name for name in PARTS if all(row[name] is None for row in self.rows.values())]


def fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The image resized by PIL's bilinear filter, ignoring the aspect ratio, as in upstream's benchmarks."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
