"""GQA 1.2 (Hudson and Manning 2019), from cs.stanford.edu/people/dorarad/gqa; CC BY 4.0.

    questions1.2/<split>_balanced_questions.json      images/<image id>.jpg

Only the balanced questions are read. Category: the structural type (verify, query, choose, logical, compare).
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, parse_rows, read_json
from r2t2_jax.datasets.record import DatasetSpec, Record, Records


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    name = f"{split}_balanced_questions.json"
    path = find_path(folder, f"questions1.2/{name}", f"questions/{name}", name)

    def parse(row: Fields) -> Record | None:
        """The record of a row; `None` for a row that is left out."""
        if row.values.get("isBalanced") is False:
            return None
        return Record(
            id=row.where.rpartition(" ")[2],
            image=folder / "images" / f"{row.text('imageId')}.jpg",
            question=row.text("question"),
            answers=(row.text("answer"),),
            category=row.object("types").text("structural"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, ((f"question {qid}", row) for qid, row in read_json(path, dict).items()), parse)


DATASETS = (
    DatasetSpec(
        name="gqa",
        title="GQA, balanced",
        read=read,
        splits=("testdev", "val", "train"),
        files="questions1.2/<split>_balanced_questions.json, images/*.jpg",
        metric="gqa_llava",
        license="CC BY 4.0",
        home="https://cs.stanford.edu/people/dorarad/gqa",
        role="evaluation",
        paper_size=1590,
    ),
)
