"""The images of a run's samples, in sheets: a run does not store them, so its question sets are loaded again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.batching import worker_threads
from r2t2_jax.runtime.typed_json import Json

if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

MAX_SIDE = 480  # pixels; photographs are reduced to it, smaller images stay as the model sees them
TILE_SIDE = 256  # pixels of an image in a sheet
QUALITIES = (85, 50)  # of WebP, in the first group of sheets and in the others
EFFORT = 2  # of WebP, from 0 to 6; the default of 4 takes twice the time for 5 to 10 % fewer bytes
COLUMNS, TILES = 10, 100  # of a sheet
ENCODERS = 2  # threads


@dataclass(frozen=True)
class _Source:
    """A question set: the arguments of `load_dataset`."""

    name: str
    split: str
    n: int | None = None
    seed: int = 0


SOURCE = tuple(entry.name for entry in fields(_Source))


@dataclass(frozen=True)
class Images:
    """Images by sample id; `reason` says why others are missing."""

    by_id: Mapping[str, UInt8[np.ndarray, "height width 3"]]
    reason: str

    def sheets(self, groups: Sequence[Sequence[str]]) -> ImageSheets:
        """Sheets of the images of each group of sample ids; equal images of one sheet share a tile."""
        shown: set[str] = set()
        tiles: list[list[str]] = []  # ids by sheet
        counts: list[int] = []
        for group in groups:
            known = [name for name in dict.fromkeys(group) if name in self.by_id and name not in shown]
            shown |= set(known)
            counts.append(-(-len(known) // TILES))
            tiles += [known[start : start + TILES] for start in range(0, len(known), TILES)]
        qualities = [QUALITIES[bool(group)] for group, count in enumerate(counts) for _ in range(count)]
        with worker_threads(ENCODERS) as pool:  # WebP is encoded without Python's lock
            images = [{name: self.by_id[name] for name in each} for each in tiles]
            drawn = list(pool.map(_draw_sheet, images, qualities))
        places = {name: [number, *place] for number, (_, own) in enumerate(drawn) for name, place in own.items()}
        return ImageSheets([sheet for sheet, _ in drawn], places, self.reason, counts)


@dataclass(frozen=True)
class ImageSheets:
    """Images side by side in a few files, so that cards can share them.

    Args:
        files: the sheets, as WebP.
        places: by sample id the number of the sheet, and left, top, width and height there in pixels.
        reason: why other images are missing.
        of_group: how many sheets each group has.
    """

    files: Sequence[bytes]
    places: Mapping[str, Sequence[int]]
    reason: str
    of_group: Sequence[int]

    def place(self, sample_id: str) -> Sequence[int] | None:
        """Where a sample's image is; `None` if it is missing."""
        return self.places.get(sample_id)

    def size(self, number: int) -> tuple[int, int]:
        """Width and height of a sheet."""
        from PIL import Image

        with Image.open(io.BytesIO(self.files[number]), formats=["WEBP"]) as sheet:
            return sheet.size


def _draw_sheet(
    images: Mapping[str, UInt8[np.ndarray, "height width 3"]], quality: int
) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """One sheet as WebP, and by id left, top, width and height of each image."""
    from PIL import Image

    tiles: dict[bytes, Image.Image] = {}
    keys = {}
    for name, array in images.items():
        keys[name] = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
        if keys[name] not in tiles:
            tiles[keys[name]] = Image.fromarray(array)
            tiles[keys[name]].thumbnail((TILE_SIDE, TILE_SIDE))
    width, height = (max(tile.size[side] for tile in tiles.values()) for side in (0, 1))
    rows, columns = -(-len(tiles) // COLUMNS), min(len(tiles), COLUMNS)
    sheet, corners = Image.new("RGB", (width * columns, height * rows), "white"), {}
    for number, (key, tile) in enumerate(tiles.items()):
        corners[key] = (number % COLUMNS * width, number // COLUMNS * height, *tile.size)
        sheet.paste(tile, corners[key][:2])
    out = io.BytesIO()
    sheet.save(out, format="WEBP", quality=quality, method=EFFORT)
    return out.getvalue(), {name: corners[key] for name, key in keys.items()}


def find_images(saved: SavedRun, ids: Collection[str]) -> Images:
    """The images of the samples with these ids, as far as the sets named in the run's `data` can be loaded here."""
    from r2t2_jax.datasets import load_dataset

    images: dict[str, np.ndarray] = {}
    reason = "No image: the run does not name its question set."
    for source in _sources(saved.run.get("data")):
        if len(images) == len(ids):
            break
        try:
            samples = load_dataset(source.name, source.split, source.n, source.seed)
        except R2T2Error as error:
            reason = f"No image: the set could not be loaded ({error})."
            continue
        images |= {sample.id: image for sample in samples if sample.id in ids and (image := sample.image) is not None}
        reason = f"No image: the sample is not in the set {source.name!r} as it is now."
    return Images(images, reason)


def as_png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """An image as PNG, reduced to `MAX_SIDE` pixels a side if it is larger."""
    from PIL import Image

    thumbnail = Image.fromarray(image)
    thumbnail.thumbnail((MAX_SIDE, MAX_SIDE))
    out = io.BytesIO()
    thumbnail.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _sources(data: Any) -> Iterator[_Source]:
    """Every entry of `data` with a set's name and split, test sets before references."""
    if isinstance(data, Mapping):
        if {"name", "split"} <= set(data):
            arguments = {key: data[key] for key in SOURCE if key in data}
            yield Json("the data in run.json", "", arguments, lines=False).as_type(_Source)
        else:
            for key in sorted(data, key=lambda key: key == "references"):
                yield from _sources(data[key])
    elif isinstance(data, list):
        for entry in data:
            yield from _sources(entry)
