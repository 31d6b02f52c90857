"""Reads a JSONL file of questions by its path, without preparation; `readers/jsonl.py` describes the lines."""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import encoded_image
from r2t2_jax.datasets.readers.jsonl import read_lines
from r2t2_jax.datasets.samples import to_sample
from r2t2_jax.datasets.validate import choose_rows, validate_records


def load_jsonl(
    path: str | Path, split: str = "", n: int | None = None, seed: int = 0, images: str | Path | None = None
) -> list[Sample]:
    """The samples of a split, or n of them chosen by `seed`, in the order of the file.

    Args:
        path: the JSONL file.
        split: read only the lines of this split; empty for all.
        n: how many; `None` for all.
        seed: seed of the choice.
        images: the image folder, by default the folder of the file.

    Raises:
        R2T2Error: the file, a line or an image cannot be read, or an id occurs twice; names file and line.
    """
    validated = validate_records(read_lines(Path(path), Path(images) if images else Path(path).parent))
    records = [record for record in validated.records if not split or record.split == split]
    rows = choose_rows([record.id for record in records], n, seed)
    return [to_sample(records[row], encoded_image(records[row].image, records[row].where)) for row in rows]
