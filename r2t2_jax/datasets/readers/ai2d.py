"""AI2D (Kembhavi et al. 2016), from allenai.org/data/diagrams; CC BY-SA 4.0.

    ai2d/questions/<diagram>.png.json      ai2d/images/<diagram>.png      ai2d_test_ids.csv (one id per line)
    ai2d/abc_images/<diagram>.png, the diagrams whose labels are replaced by letters, for questions marked abcLabel

or MoVA's question file of the same test set, test.jsonl, next to images/ and abc_images/. Category: `text` or
`letters`, the kind of labels in the diagram.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import (
    Fields,
    check_letter,
    find_path,
    numbered,
    option_letter,
    parse_rows,
    read_json,
    read_text,
    unpacked_root,
    visible,
)
from r2t2_jax.datasets.prompts import split_prompt
from r2t2_jax.datasets.record import DatasetSpec, InvalidRecord, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import parse_json


def read(folder: Path, split: str) -> Records:
    """Yields one record per question, in the order of the diagram numbers."""
    if (folder / f"{split}.jsonl").exists():
        return _read_lines(folder, split)
    return _read_original(folder, split)


def _read_original(folder: Path, split: str) -> Records:
    root = unpacked_root(folder, "ai2d")
    find_path(root, "questions", what="folder of questions")
    ids_path = find_path(folder, "ai2d_test_ids.csv", "ai2d/ai2d_test_ids.csv", what="list of test diagrams")
    test = set(read_text(ids_path).split())
    paths = sorted(visible(root / "questions", "*.json"), key=lambda path: (len(path.name), path.name))

    def parse(row: Fields) -> Record:
        """The record of a row."""
        answers, abc = row.texts("answerTexts"), bool(row.values.get("abcLabel"))
        return Record(
            id=row.text("questionId"),
            image=root / ("abc_images" if abc else "images") / str(row.values["imageName"]),
            question=str(row.values["question"]),
            options=tuple(answers),
            answers=(option_letter(row.integer("correctAnswer"), answers, row.where),),
            style="letter",
            category="letters" if abc else "text",
            split=split,
            where=row.where,
        )

    for path in paths:
        if (path.name.split(".")[0] in test) == (split == "test"):
            try:
                questions = list(_questions(path))
            except R2T2Error as error:
                yield InvalidRecord(str(error))
                continue
            yield from parse_rows(path, questions, parse)


def _questions(path: Path) -> Iterator[tuple[str, Any]]:
    content = read_json(path, dict)
    image, questions = content.get("imageName"), content.get("questions")
    if not isinstance(image, str) or not isinstance(questions, dict):
        raise R2T2Error(f"{path}: has no 'imageName' and 'questions': is this the official file?")
    for text, row in questions.items():
        complete = {**row, "question": text, "imageName": image} if isinstance(row, dict) else row
        yield f"question {text!r}", complete


def _read_lines(folder: Path, split: str) -> Records:
    path = folder / f"{split}.jsonl"

    def parse(row: Fields) -> Record:
        """The record of a row."""
        image = row.text("image")
        question, options, _ = split_prompt(row.text("question"))
        return Record(
            id=row.text("question_id"),
            image=folder / image,
            question=question,
            options=options,
            answers=(check_letter(row.text("answer"), options, row.where),),
            style="letter",
            category="letters" if image.startswith("abc_images") else "text",
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(_json_or_text(read_text(path)), "line"), parse)


def _json_or_text(text: str) -> Iterator[Any]:
    """The JSON value of each line; a line that is not JSON stays a string, which `parse_rows` rejects."""
    for line in filter(None, text.split("\n")):
        try:
            yield parse_json(line, "a line", lines=False).content
        except R2T2Error:
            yield line


DATASETS = (
    DatasetSpec(
        name="ai2d",
        title="AI2D",
        read=read,
        splits=("test", "train"),
        files="ai2d/questions/*.json, ai2d/images/*.png, ai2d/abc_images/*.png, ai2d_test_ids.csv; or test.jsonl",
        metric="ai2d",
        license="CC BY-SA 4.0",
        home="https://prior.allenai.org/projects/diagram-understanding",
        role="evaluation",
        paper_size=3087,
    ),
)
