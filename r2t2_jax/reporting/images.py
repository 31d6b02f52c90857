"""The images of a run's samples: a run stores none, so the set it asked is loaded again."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from r2t2_jax.errors import R2T2Error

if TYPE_CHECKING:
    from r2t2_jax.runs.reading import SavedRun

LARGEST = 480  # pixels a side; a photograph is made smaller, a small drawing stays as the model sees it


@dataclass(frozen=True)
class Images:
    """Images found, by the samples' ids; `reason` says why the others were not."""

    found: Mapping[str, np.ndarray]
    reason: str

    def png(self, name: str) -> bytes | None:
        """A sample's image."""
        return as_png(self.found[name]) if name in self.found else None


def find_images(saved: SavedRun, wanted: Collection[str]) -> Images:
    """The images of the wanted samples, as far as the sets named in the run's `data` can be loaded here."""
    from r2t2_jax.datasets import load_dataset

    found: dict[str, np.ndarray] = {}
    reason = "No image: the run does not say which set it asked."
    for source in _sources(saved.run.get("data")):
        if len(found) == len(wanted):
            break
        try:
            samples = load_dataset(source["name"], source["split"], source.get("n"), source.get("seed", 0))
        except R2T2Error as error:
            reason = f"No image: the set could not be loaded ({error})."
            continue
        found |= {sample.id: sample.image for sample in samples if sample.id in wanted}
        reason = f"No image: the sample is not in the set {source['name']!r} as it is here."
    return Images(found, reason)


def as_png(image: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as PNG, no larger than it is shown."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return out.getvalue()


def _sources(data: Any) -> Iterator[Mapping[str, Any]]:
    """Whatever in `data` names a set and a split, test sets before references."""
    if isinstance(data, Mapping):
        if {"name", "split"} <= set(data):
            yield data
        else:
            for key in sorted(data, key=lambda key: key == "references"):
                yield from _sources(data[key])
    elif isinstance(data, list):
        for entry in data:
            yield from _sources(entry)
