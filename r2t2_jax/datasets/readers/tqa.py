"""TQA, textbook question answering (Kembhavi et al. 2017), from allenai.org/data/tqa; CC BY-NC 3.0.

    tqa_train_val_test/<split>/tqa_v1_<split>.json (test: tqa_v2_test.json)      <split>/question_images/*.png

Only questions with a diagram are read; the others have no image. A question has two to seven options. Category:
the kind of question.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import Fields, check_letter, find_path, parse_rows, read_json, unpacked_root
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error


def read(folder: Path, split: str) -> Records:
    """Yields one record per diagram question, by lesson."""
    root = unpacked_root(folder, "tqa_train_val_test") / split
    root = root if root.is_dir() else folder
    path = find_path(root, f"tqa_v1_{split}.json", f"tqa_v2_{split}.json")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        choices = row.object("answerChoices")
        letters = sorted(choices.values)
        options = tuple(choices.object(name).text("processedText") for name in letters)
        if len(options) < 2 or letters != [chr(ord("a") + i) for i in range(len(letters))]:
            raise R2T2Error(f"{row.where}: answerChoices are {letters}, not a, b, ...")
        return Record(
            id=row.text("globalID"),
            image=root / row.text("imagePath"),
            question=row.object("beingAsked").text("processedText"),
            options=options,
            answers=(check_letter(row.object("correctAnswer").text("processedText"), options, row.where),),
            style="letter",
            category=row.text("questionSubType"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, _diagram_questions(path), parse)


def _diagram_questions(path: Path) -> Iterator[tuple[str, Any]]:
    for number, lesson in enumerate(read_json(path, list), start=1):
        questions = lesson.get("questions") if isinstance(lesson, dict) else None
        if not isinstance(questions, dict) or not isinstance(questions.get("diagramQuestions"), dict):
            raise R2T2Error(f"{path}: lesson {number} has no 'diagramQuestions': is this the official file?")
        yield from questions["diagramQuestions"].items()


DATASETS = (
    DatasetSpec(
        name="tqa",
        title="TQA, questions with a diagram",
        read=read,
        splits=("val", "train", "test"),
        files="<split>/tqa_v1_<split>.json (test: tqa_v2_test.json), <split>/question_images/*.png",
        metric="tqa",
        license="CC BY-NC 3.0",
        home="https://allenai.org/data/tqa",
        role="reference",
        paper_size=5000,
    ),
)
