"""Auxiliary records: their parts, their rows and maps on disk, and the provider that reads stored ones (`build.py`)."""

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

from r2t2_jax.contract import GRAY
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.folder import RUN, read_json
from r2t2_jax.runtime.typed_files import check_text_columns, path_below, read_parquet
from r2t2_jax.runtime.typed_json import parse_json

PARTS = ("segments", "detections", "scene", "lines")
FORMER_PROVIDERS = {"mask2former": "segments", "owlv2": "detections", "rapidocr": "lines", "scenes": "scene"}
STORE, TABLE, MAPS, SCHEMA = "store.json", "records.parquet", "maps", 1


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
    kinds = {
        "segments": tuple[Segment, ...],
        "detections": tuple[Detection, ...],
        "scene": SceneGraph,
        "lines": tuple[TextLine, ...],
    }
    where = f"auxiliary record of image {row['key']}"
    parts: dict[str, Any] = {
        name: None
        if row[name] is None
        else parse_json(row[name], f"{where}, {name}", "run r2t2 aux build again", lines=False).as_type(kind)
        for name, kind in kinds.items()
    }
    return AuxRecord(key=row["key"], id=row["id"], map=segment_map, **parts)


def to_png(segment_map: UInt8[np.ndarray, "size size"]) -> bytes:
    """A map as an 8-bit grayscale PNG."""
    packed = io.BytesIO()
    Image.fromarray(np.asarray(segment_map, np.uint8)).save(packed, "PNG")
    return packed.getvalue()


def read_makers(folder: Path) -> dict[str, str]:
    """The maker of each part of a store's or a build's records, by part; empty for a folder that is neither."""
    for file, field in ((folder / STORE, "made_by"), (folder / RUN, "providers")):
        if not file.is_file():
            continue
        makers = read_json(file).get(field)
        if isinstance(makers, list):  # of the former layout
            makers = {FORMER_PROVIDERS.get(str(name).partition(":")[0], str(name)): name for name in makers}
        if not isinstance(makers, dict) or not all(isinstance(maker, str) for maker in makers.values()):
            raise R2T2Error(f"{file}: {field!r} must say what made each part of the records; run r2t2 aux build again")
        return makers
    return {}


def _read_rows(path: Path) -> list[dict[str, Any]]:
    columns = ("key", "id", *PARTS)
    table = read_parquet(path, "run r2t2 aux build again")
    check_text_columns(path, table.schema, columns, "run r2t2 aux build again")
    rows: list[dict[str, Any]] = table.select(columns).to_pylist()
    return rows


@dataclass(frozen=True)
class CachedRecords:
    """The provider that reads the records of one or several stores, by the image's key.

    Args:
        folders: of the stores.
        rows: their rows by key.
        makers: what made each part of the records.
    """

    folders: tuple[Path, ...]
    rows: Mapping[str, Mapping[str, Any]]
    makers: Mapping[str, str]

    @classmethod
    def open(cls, *folders: Path) -> CachedRecords:
        """Open stores of records; maps are read when they are needed.

        Raises:
            R2T2Error: a folder contains no records, its table is damaged, or the stores were made by other providers.
        """
        rows: dict[str, Mapping[str, Any]] = {}
        makers = read_makers(folders[0])
        for folder in folders:
            try:
                stored = {row["key"]: {**row, "folder": folder} for row in _read_rows(folder / TABLE)}
            except R2T2Error as error:
                raise R2T2Error(
                    f"{folder} contains no auxiliary records ({error}); make them with r2t2 aux build"
                ) from error
            rows = {**stored, **rows}
            if read_makers(folder) != makers:
                raise R2T2Error(
                    f"the auxiliary records in {folders[0]} and {folder} were not made in the same way ({makers}; "
                    f"{read_makers(folder)}); use stores made by the same models"
                )
        return cls(folders, rows, makers)

    @property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits of what made the records; independent of their images."""
        return hashlib.sha256(json.dumps(self.makers, sort_keys=True).encode()).hexdigest()[:8]

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The stored record of an image; an empty one of the gray image without content, which no set has.

        Raises:
            R2T2Error: there is no record of the image, it lacks a part, or its map is damaged.
        """
        if (image == GRAY).all():
            empty: dict[str, Any] = {part: () for part in PARTS if part in self.makers and part != "scene"}
            return dataclasses.replace(record, **empty)
        stored = self.rows.get(record.key)
        lacking = [part for part in self.makers if part in PARTS and stored is not None and stored[part] is None]
        absent = "record" if stored is None else ", ".join(part for part in lacking if part != "scene")
        if absent:  # an image without relations has no scene graph
            sample = f" of sample {record.id!r}" if record.id else ""
            raise R2T2Error(
                f"no auxiliary {absent} of the image{sample} (digest {record.key}) among the {len(self.rows):,} images "
                f"in {', '.join(map(str, self.folders))}; add it: r2t2 aux build --data SET --out {self.folders[0]}"
            )
        return self.read(record.key)

    def read(self, key: str) -> AuxRecord:
        """The stored record with this key, which exists."""
        row = self.rows[key]
        return from_row(row, self._map(row) if row["segments"] is not None else None)

    def _map(self, row: Mapping[str, Any]) -> np.ndarray:
        path = path_below(row["folder"] / MAPS, f"{row['key']}.png", str(row["folder"] / TABLE))
        try:
            with Image.open(path, formats=("PNG",)) as file:
                return np.asarray(file.convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise R2T2Error(f"{path} cannot be read ({error}); run r2t2 aux build again") from error

    def missing_parts(self) -> list[str]:
        """Parts that no stored record has, because their models were not run."""
        return [name for name in PARTS if all(row[name] is None for row in self.rows.values())]


def fit(image: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The image resized by PIL's bilinear filter, ignoring the aspect ratio, as in upstream's benchmarks."""
    if image.shape[:2] == (size, size):
        return image
    return np.asarray(Image.fromarray(image).convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
