"""A few samples straight from official files, for a look at them before they are prepared."""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.record import Source
from r2t2_jax.datasets.stored_sample import as_sample
from r2t2_jax.datasets.survey import subset, survey
from r2t2_jax.errors import R2T2Error


def official_samples(source: Source, folder: Path, split: str, n: int, seed: int) -> tuple[list[Sample], bool]:
    """N questions of a split; bad records are passed over.

    Returns:
        The samples and whether they have images; where no image file of the split is there, they have none.

    Raises:
        R2T2Error: a file is missing or wrong, no record is usable, or an image cannot be read.
    """
    split = split or (source.splits[0] if source.splits else "")
    try:
        found, images = survey(source, folder, split, skip_bad=True), True
    except R2T2Error:
        found, images = survey(source, folder, split, skip_bad=True, images=False), False
    chosen = subset(found.records, source, n, seed)
    return [as_sample(one, encoded_image(one.image, one.where) if images else b"") for one in chosen], images
