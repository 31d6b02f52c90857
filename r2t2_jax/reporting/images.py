"""The images of a run's samples: a run does not store them, so its question sets are loaded again."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import Json

if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

MAX_SIDE = 480  # pixels; photographs are reduced to it, smaller images stay as the model sees them


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

    def png(self, sample_id: str) -> bytes | None:
        """A sample's image as PNG; `None` if it is missing."""
        return as_png(self.by_id[sample_id]) if sample_id in self.by_id else None


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
