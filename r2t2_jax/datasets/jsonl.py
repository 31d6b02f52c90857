"""A JSONL file of questions beside a folder of images: the set a user writes by hand.

One object a line: `image` (path below the image folder), `question`, `answer`, and, where wanted, `answers` (all
accepted ones, the most common first), `id`, `options`, `style`, `category`, `split`. With style `letter` an answer
may be the letter or the option's text; the letter is what the model is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
from PIL import Image

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

STYLES = ("letter", "word", "plain")
TEXT_FIELDS = ("image", "question", "answer", "id", "style", "category", "split")
LIST_FIELDS = ("answers", "options")


@dataclass(frozen=True)
class Record:
    """One checked line; `where` is `file:line`, for errors."""

    where: str
    image: Path
    fields: dict[str, Any]


def load_jsonl(
    path: str | Path, split: str = "", n: int | None = None, seed: int = 0, images: str | Path | None = None
) -> list[Sample]:
    """The samples of a split, or n of them chosen by `seed`, in the order of the file.

    Args:
        path: the JSONL file.
        split: keep the lines of this split; empty for all.
        n: how many; `None` for all.
        seed: which ones.
        images: the image folder, by default the file's own.

    Raises:
        R2T2Error: the file, a line or an image cannot be read, or an id stands twice; names file and line.
    """
    records = list(read_records(Path(path), Path(images) if images else Path(path).parent))
    records = [record for record in records if not split or record.fields.get("split", "") == split]
    if n is not None and n < len(records):
        chosen = np.sort(np.random.default_rng(seed).choice(len(records), n, replace=False))
        records = [records[i] for i in chosen]
    return [_sample(record) for record in records]


def read_records(path: Path, images: Path) -> Iterator[Record]:
    """Check every line without opening its image; raises as `load_jsonl` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise R2T2Error(f"cannot read {path}: {error}") from error
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() would also cut at U+2028 inside a string
        if not line.strip():
            continue
        where = f"{path}:{number}"
        fields = {"id": f"{path.stem}-{number}"} | _parse(line, where)
        if fields["id"] in seen:
            raise R2T2Error(f"{where}: id {fields['id']!r} stands twice")
        seen.add(fields["id"])
        yield Record(where, images / fields["image"], fields)


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


def _sample(record: Record) -> Sample:
    try:
        with Image.open(record.image) as image:
            pixels = np.asarray(image.convert("RGB"))  # uint8 [height, width, 3]
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # SyntaxError: a broken PNG chunk
        raise R2T2Error(f"{record.where}: cannot read image {record.image}: {error}") from error
    fields = record.fields
    return Sample(
        id=fields["id"],
        image=pixels,
        question=fields["question"],
        answers=_answers(record),
        options=tuple(fields.get("options", ())),
        style=fields.get("style", "plain"),
        category=fields.get("category", ""),
        split=fields.get("split", ""),
    )


def _answers(record: Record) -> tuple[str, ...]:
    """Accepted answers in the prompted form, the most common first."""
    fields = record.fields
    given = ([fields["answer"]] if fields.get("answer") else []) + fields.get("answers", [])
    if fields.get("style") == "letter":
        given = [_letter(answer, fields.get("options", []), record.where) for answer in given]
    return tuple(dict.fromkeys(given))


def _letter(answer: str, options: list[str], where: str) -> str:
    if answer in options:
        return ascii_uppercase[options.index(answer)]
    if len(answer) == 1 and answer.upper() in ascii_uppercase[: len(options)]:
        return answer.upper()
    raise R2T2Error(f"{where}: answer {answer!r} is neither one of the options {options} nor its letter")
