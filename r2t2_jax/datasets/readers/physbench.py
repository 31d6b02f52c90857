"""PhysBench (Chow et al. 2025), from its Hugging Face page USC-GVL/PhysBench; Apache-2.0.

    test.json      val_answer.json      image/<file>

Questions with mode image-only. The answers of the test split are with EvalAI alone; 44 of the 200 public answers are to
image-only questions, and those are the split `val`. Category: the kind of task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from r2t2_jax.datasets.files import Fields, by_key, find, list_choices, numbered, parse_rows, read_json
from r2t2_jax.datasets.prompts import split_prompt
from r2t2_jax.datasets.record import Bad, Record, Source
from r2t2_jax.errors import R2T2Error

MODE = "image-only"
_MARK = re.compile(r"<(image|video)>\n?")


def read(folder: Path, split: str) -> Iterator[Record | Bad]:
    """One record an image-only question whose answer is public."""
    answers_path = find(folder, "val_answer.json", what="answers file")
    path = find(folder, "test.json", what="questions file")
    answers = by_key(read_json(answers_path, list), "idx")

    def parse(row: Fields) -> Record | None:
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
                list_choices(str(answers[identifier].get("answer")), options, f"{answers_path}, idx {identifier}"),
            ),
            style="letter",
            category=row.text("task_type"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(read_json(path, list), "question"), parse)


SOURCE = Source(
    name="physbench",
    title="PhysBench, image only",
    read=read,
    splits=("val",),
    files="test.json, val_answer.json, image/",
    metric="physbench",
    licence="Apache-2.0",
    home="https://physbench.github.io",
    role="evaluation",
    paper_size=2093,
)
