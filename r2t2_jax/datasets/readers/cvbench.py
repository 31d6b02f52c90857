"""CV-Bench (Tong et al. 2024), from its Hugging Face page nyu-visionx/CV-Bench; Apache-2.0; images of ADE20K, COCO and
Omni3D under their licenses.

    test_2d.parquet for `cvbench2d`, test_3d.parquet for `cvbench3d`, or the older test.parquet for both

Category: source/task, because the official scores are means over sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, check_letter, find_path, parse_rows
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

COLUMNS = ("idx", "type", "task", "image", "question", "choices", "answer", "source")


def reader(kind: str) -> Callable[[Path, str], Records]:
    """The function that reads the questions of one kind, `2D` or `3D`."""

    def read(folder: Path, split: str) -> Records:
        path = find_path(folder, f"test_{kind.lower()}.parquet", "test.parquet")

        def parse(row: Fields) -> Record | None:
            """The record of a row; `None` for a row that is left out."""
            if row.text("type") != kind:
                return None
            choices = row.texts("choices")
            return Record(
                id=str(row.integer("idx")),
                image=_image(row),
                question=row.text("question"),
                options=tuple(choices),
                answers=(check_letter(row.text("answer"), choices, row.where),),
                style="letter",
                category=f"{row.text('source')}/{row.text('task')}",
                split=split,
                where=row.where,
            )

        yield from parse_rows(path, _rows(path), parse)

    return read


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in table.schema_arrow.names]
        if missing:
            raise R2T2Error(f"{path}: has no column {', '.join(missing)}: is this the official file?")
        number = 0
        for batch in table.iter_batches(columns=list(COLUMNS), batch_size=64):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise R2T2Error(f"{path}: not a Parquet file, perhaps cut off: {error}") from error


def _image(row: Fields) -> bytes:
    value = row.values.get("image")
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(encoded, bytes):
        raise R2T2Error(f"{row.where}: 'image' contains no bytes")
    return encoded


_CVBENCH_2D = DatasetSpec(
    name="cvbench2d",
    title="CV-Bench 2D",
    read=reader("2D"),
    splits=("test",),
    files="test_2d.parquet or test.parquet",
    metric="cvbench2d",
    set_score="cvbench",
    license="Apache-2.0; images of ADE20K, COCO, Omni3D under theirs",
    home="https://huggingface.co/datasets/nyu-visionx/CV-Bench",
    role="evaluation",
    paper_size=1438,
)
DATASETS = (
    _CVBENCH_2D,
    replace(
        _CVBENCH_2D,
        name="cvbench3d",
        title="CV-Bench 3D",
        read=reader("3D"),
        files="test_3d.parquet or test.parquet",
        metric="cvbench3d",
        paper_size=1200,
    ),
)
