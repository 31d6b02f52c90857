"""ScienceQA (Lu et al. 2022), from github.com/lupantech/ScienceQA; CC BY-NC-SA 4.0.

    problems.json      images/<split>/<problem>/image.png

SQA-IMG, the questions that have an image. A hint precedes the question as `Context: <hint>`, as in the prompts of
LLaVA, MoAI and MoVA. Category: the subject.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, option_letter, parse_rows, read_json
from r2t2_jax.datasets.record import DatasetSpec, Record, Records


def read(folder: Path, split: str) -> Records:
    """Yields one record per problem of the split that has an image."""
    path = find_path(folder, "problems.json", "data/scienceqa/problems.json", what="problems file")

    def parse(row: Fields) -> Record | None:
        """The record of a row; `None` for a row that is left out."""
        if row.text("split") != split or not row.values.get("image"):
            return None
        identifier, choices = row.where.rpartition(" ")[2], row.texts("choices")
        hint = str(row.values.get("hint") or "")
        return Record(
            id=identifier,
            image=path.parent / "images" / split / identifier / row.text("image"),
            question=(f"Context: {hint}\n" if hint else "") + row.text("question"),
            options=tuple(choices),
            answers=(option_letter(row.integer("answer"), choices, row.where),),
            style="letter",
            category=row.text("subject"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, ((f"problem {pid}", row) for pid, row in read_json(path, dict).items()), parse)


DATASETS = (
    DatasetSpec(
        name="scienceqa",
        title="ScienceQA, with image",
        read=read,
        splits=("test", "val", "train"),
        files="problems.json, images/<split>/<problem>/image.png",
        metric="scienceqa",
        license="CC BY-NC-SA 4.0",
        home="https://scienceqa.github.io",
        role="evaluation",
        paper_size=2017,
    ),
)
