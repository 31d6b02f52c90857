"""What is known about one image beside its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


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
