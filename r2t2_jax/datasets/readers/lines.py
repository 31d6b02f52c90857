"""A set written by hand: a JSONL file of questions beside a folder of images.

One object a line: `image` (path below the image folder), `question`, `answer`, and, where wanted, `answers` (all
accepted ones, the most common first), `id`, `options`, `style`, `category`, `split`. With style `letter` an answer
may be the letter or the option's text; the letter is what the model is asked for.

`r2t2 datasets prepare jsonl` reads questions.jsonl, or the only .jsonl file of the folder; `load_dataset` also takes
the path of such a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from r2t2_jax.datasets.files import find, read_text
from r2t2_jax.datasets.record import STYLES, Bad, Record, Source
from r2t2_jax.errors import R2T2Error

TEXT_FIELDS = ("image", "question", "answer", "id", "style", "category", "split")
LIST_FIELDS = ("answers", "options")


def read(folder: Path, split: str) -> Iterator[Record | Bad]:
    """The lines of a split of the folder's file; of all splits for the empty one."""
    path = find(folder, "questions.jsonl", "*.jsonl")
    for item in read_lines(path, folder):
        if isinstance(item, Bad) or not split or item.split == split:
            yield item


def read_lines(path: Path, images: Path) -> Iterator[Record | Bad]:
    """One record a line that is not empty; ids default to `<file>-<line>`."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would also cut at U+2028
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield _record({"id": f"{path.stem}-{number}"} | _parse(line, where), images, where)
        except R2T2Error as error:
            yield Bad(str(error))


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise R2T2Error(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise R2T2Error(f"{where}: expected an object, found {type(fields).__name__}")
    for name, value in fields.items():
        if name in TEXT_FIELDS and not isinstance(value, str):
            raise R2T2Error(f"{where}: {name!r} must be a string, not {value!r}")
        if name in LIST_FIELDS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise R2T2Error(f"{where}: {name!r} must be a list of strings, not {value!r}")
        if name not in TEXT_FIELDS + LIST_FIELDS:
            raise R2T2Error(f"{where}: unknown field {name!r}; known: {', '.join(TEXT_FIELDS + LIST_FIELDS)}")
    for name in ("image", "question"):
        if not fields.get(name):
            raise R2T2Error(f"{where}: {name!r} is missing")
    if not fields.get("answer") and not fields.get("answers"):
        raise R2T2Error(f"{where}: 'answer' is missing")
    if fields.get("style", "plain") not in STYLES:
        raise R2T2Error(f"{where}: unknown style {fields['style']!r}; choose one of {', '.join(STYLES)}")
    return fields


def _record(fields: dict[str, Any], images: Path, where: str) -> Record:
    return Record(
        id=fields["id"],
        image=images / fields["image"],
        question=fields["question"],
        answers=_answers(fields, where),
        options=tuple(fields.get("options", ())),
        style=fields.get("style", "plain"),
        category=fields.get("category", ""),
        split=fields.get("split", ""),
        where=where,
    )


def _answers(fields: dict[str, Any], where: str) -> tuple[str, ...]:
    """Accepted answers in the prompted form, the most common first."""
    given = ([fields["answer"]] if fields.get("answer") else []) + fields.get("answers", [])
    if fields.get("style") == "letter":
        given = [_letter(answer, fields.get("options", []), where) for answer in given]
    return tuple(dict.fromkeys(given))


def _letter(answer: str, options: list[str], where: str) -> str:
    if answer in options:
        return ascii_uppercase[options.index(answer)]
    if len(answer) == 1 and answer.upper() in ascii_uppercase[: len(options)]:
        return answer.upper()
    raise R2T2Error(f"{where}: answer {answer!r} is neither one of the options {options} nor its letter")


SOURCE = Source(
    name="jsonl",
    title="your own questions",
    read=read,
    splits=(),
    files="questions.jsonl, images by path",
    metric="exact_match",
    licence="yours",
    home="",
)
