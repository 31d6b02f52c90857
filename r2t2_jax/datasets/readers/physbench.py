"""PhysBench (Chow et al. 2025), from its Hugging Face page USC-GVL/PhysBench; Apache-2.0.

    test.json      val_answer.json      image/<file>

Only questions with mode image-only are read. The answers of the test split are hidden; 44 of the 200 public answers
belong to image-only questions, and those form the split `val`. Category: the kind of task.
"""

from __future__ import annotations

import re
from pathlib import Path

from r2t2_jax.datasets.files import Fields, check_letter, find_path, index_by, numbered, parse_rows, read_json
from r2t2_jax.datasets.prompts import split_prompt
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

MODE = "image-only"
_MARK = re.compile(r"<(image|video)>\n?")


def read(folder: Path, split: str) -> Records:
    """Yields one record per image-only question with a public answer."""
    answers_path = find_path(folder, "val_answer.json", what="answers file")
    path = find_path(folder, "test.json", what="questions file")
    answers = index_by(read_json(answers_path, list), "idx")

    def parse(row: Fields) -> Record | None:
        """The record of a row; `None` for a row that is left out."""
        identifier = row.integer("idx")
        if row.text("mode") != MODE or identifier not in answers:
            return None
        files = row.texts("file_name")
        if len(files) != 1:
            raise R2T2Error(f"{row.where}: the question has {len(files)} images, a sample has one")
        question, options, _ = split_prompt(_MARK.sub("", row.text("question")).strip())
        return Record(
            id=str(identifier),
            image=folder / "image" / files[0],
            question=question,
            options=options,
            answers=(
                check_letter(str(answers[identifier].get("answer")), options, f"{answers_path}, idx {identifier}"),
            ),
            style="letter",
            category=row.text("task_type"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(read_json(path, list), "question"), parse)


DATASETS = (
    DatasetSpec(
        name="physbench",
        title="PhysBench, image only",
        read=read,
        splits=("val",),
        files="test.json, val_answer.json, image/",
        metric="physbench",
        license="Apache-2.0",
        home="https://physbench.github.io",
        role="evaluation",
        paper_size=2093,
    ),
)
