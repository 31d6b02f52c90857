"""A JSONL file of questions by its path, without preparing it (see `readers/lines.py` for what a line holds)."""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.readers.lines import read_lines
from r2t2_jax.datasets.samples import as_sample
from r2t2_jax.datasets.validate import choose, validate_records


def load_jsonl(
    path: str | Path, split: str = "", n: int | None = None, seed: int = 0, images: str | Path | None = None
) -> list[Sample]:
    """The samples of a split, or n of them chosen by `seed`, in the order of the file.

    Args:
        path: the JSONL file.
        split: keep the lines of this split; empty for all.
        n: how many; `None` for all.
        seed: which ones.
        images: the image folder, by default the file's own.

    Raises:
        R2T2Error: the file, a line or an image cannot be read, or an id stands twice; names file and line.
    """
    found = validate_records(read_lines(Path(path), Path(images) if images else Path(path).parent))
    records = [record for record in found.records if not split or record.split == split]
    chosen = [records[row] for row in choose([record.id for record in records], n, seed)]
    return [as_sample(record, encoded_image(record.image, record.where)) for record in chosen]
