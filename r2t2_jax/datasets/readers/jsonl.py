"""Your own dataset: a JSONL file of questions next to a folder of images.

Each line is an object with `question`, `answer`, and optionally `image` (path relative to the image folder; left out
for questions of text only), `answers` (all accepted answers, the most common first, with repeats), `id`, `options`,
`style`, `category` and `split`. If `answer` is one of `answers`, it is the first and is not counted again. With style
`letter` an answer is the letter or the text of an option; the prompt requests the letter. An answer that is the letter
of one option and the text of another, or the text of two, is refused. An empty option is a letter without an option.
Field names of other formats (`field_names.py`) are read with a note, and other fields are named once and not read.

`r2t2 datasets prepare jsonl` reads questions.jsonl, or the only .jsonl file of the folder; `load_dataset` also accepts
the path of such a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from r2t2_jax.contract import options_by_letter
from r2t2_jax.datasets.files import find_path, read_text
from r2t2_jax.datasets.readers.field_names import FieldNames
from r2t2_jax.datasets.record import STYLES, DatasetSpec, InvalidRecord, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import parse_json

TEXT_FIELDS = ("image", "question", "answer", "id", "style", "category", "split")
LIST_FIELDS = ("answers", "options")


def read(folder: Path, split: str) -> Records:
    """Yields one record per line of a split, or per line of the file if `split` is empty."""
    path = find_path(folder, "questions.jsonl", "*.jsonl")
    for item in read_lines(path, folder):
        if isinstance(item, InvalidRecord) or not split or item.split == split:
            yield item


def read_lines(path: Path, images: Path) -> Records:
    """Yields one record per non-empty line; ids default to `<file>-<line>`."""
    names = FieldNames(str(path), TEXT_FIELDS + LIST_FIELDS)
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would also cut at U+2028
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield _record({"id": f"{path.stem}-{number}"} | _parse(line, where, names), images, where)
        except R2T2Error as error:
            yield InvalidRecord(str(error))
    names.report()


def _parse(line: str, where: str, names: FieldNames) -> dict[str, Any]:
    content = parse_json(line, where, lines=False).content
    if not isinstance(content, dict):
        raise R2T2Error(f"{where}: expected an object, found {type(content).__name__}")
    fields = names.rename(content, where)
    for name, value in fields.items():
        if name in TEXT_FIELDS and not isinstance(value, str):
            raise R2T2Error(f"{where}: {name!r} must be a string, not {value!r}")
        if name in LIST_FIELDS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise R2T2Error(f"{where}: {name!r} must be a list of strings, not {value!r}")
    if not fields.get("question"):
        raise R2T2Error(f"{where}: 'question' is missing")
    if fields.get("image") == "":
        raise R2T2Error(f"{where}: 'image' is empty; leave it out for a question of text only")
    if not fields.get("answer") and not fields.get("answers"):
        raise R2T2Error(f"{where}: 'answer' is missing")
    if fields.get("style", "plain") not in STYLES:
        raise R2T2Error(f"{where}: unknown style {fields['style']!r}; choose one of {', '.join(STYLES)}")
    return fields


def _record(fields: dict[str, Any], images: Path, where: str) -> Record:
    return Record(
        id=fields["id"],
        image=images / fields["image"] if "image" in fields else None,
        question=fields["question"],
        answers=_answers(fields, where),
        options=tuple(fields.get("options", ())),
        style=fields.get("style", "plain"),
        category=fields.get("category", ""),
        split=fields.get("split", ""),
        where=where,
    )


def _answers(fields: dict[str, Any], where: str) -> tuple[str, ...]:
    """The accepted answers in the form that the prompt requests, with repeats, `answer` first."""
    first, answers = fields.get("answer"), list(fields.get("answers", []))
    if fields.get("style") == "letter":
        options = _offered(fields.get("options", []), where)
        first = _letter(first, options, where) if first else first
        answers = [_letter(answer, options, where) for answer in answers]
    if not first:
        return tuple(answers)
    same = [answer for answer in answers if answer == first]
    return (*(same or [first]), *(answer for answer in answers if answer != first))


def _offered(options: list[str], where: str) -> dict[str, str]:
    try:
        return options_by_letter(options)
    except R2T2Error as error:
        raise R2T2Error(f"{where}: {error}") from error


def _letter(answer: str, options: dict[str, str], where: str) -> str:
    """The letter of an answer that is a letter or the text of an option."""
    letters = [letter for letter, text in options.items() if text == answer]
    if len(answer) == 1 and answer.upper() in options:
        letters = list(dict.fromkeys([answer.upper(), *letters]))
    if len(letters) > 1:
        raise R2T2Error(
            f"{where}: answer {answer!r} is ambiguous, it stands for the options {' and '.join(letters)}: give other "
            "option texts, or the letter if no option has it as its text"
        )
    if not letters:
        listed = list(options.values())
        raise R2T2Error(f"{where}: answer {answer!r} is neither one of the options {listed} nor the letter of one")
    return letters[0]


DATASETS = (
    DatasetSpec(
        name="jsonl",
        title="your own questions",
        read=read,
        splits=(),
        files="questions.jsonl, images by path",
        metric="exact_match",
        license="yours",
        home="",
    ),
)
