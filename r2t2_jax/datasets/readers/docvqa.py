"""DocVQA, single page (Mathew et al. 2021), from rrc.cvc.uab.es, challenge 17; for research, after registration. The
pages are from the UCSF Industry Documents Library.

    <split>_v1.0.json or <split>_v1.0_withQT.json      documents/<document>_<page>.png (or <split>/documents)

Test answers are hidden. Category: the first question type, if the file states any.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import (
    Fields,
    check_version,
    find_path,
    first_existing,
    get_member,
    numbered,
    parse_rows,
    read_json,
)
from r2t2_jax.datasets.record import DatasetSpec, Record, Records


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    names = (f"{split}_v1.0.json", f"{split}_v1.0_withQT.json")
    path = find_path(
        folder, *names, *(f"{split}/{name}" for name in names), *(f"spdocvqa_qas/{name}" for name in names)
    )
    content = read_json(path, dict)
    check_version(path, content.get("dataset_version"), "1.0", "DocVQA")

    def parse(row: Fields) -> Record:
        image, kinds = row.text("image"), row.values.get("question_types")
        return Record(
            id=str(row.integer("questionId")),
            image=first_existing(folder, image, f"{split}/{image}", f"spdocvqa_images/{Path(image).name}"),
            question=row.text("question"),
            answers=tuple(row.texts("answers")),
            category=str(kinds[0]) if isinstance(kinds, list) and kinds else "",
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(get_member(path, content, "data", list), "question"), parse)


DATASETS = (
    DatasetSpec(
        name="docvqa",
        title="DocVQA, single page",
        read=read,
        splits=("val", "train"),
        files="<split>_v1.0.json (or _withQT), documents/*.png",
        metric="anls",
        license="research, after registration (UCSF Industry Documents)",
        home="https://www.docvqa.org",
        role="reference",
        paper_size=5000,
    ),
)
