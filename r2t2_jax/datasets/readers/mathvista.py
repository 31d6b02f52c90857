"""MathVista (Lu et al. 2024), from github.com/lupantech/MathVista or its Hugging Face copy AI4Math/MathVista;
CC BY-SA 4.0; images of other datasets under their licenses.

    data/testmini.json      data/query.json      images/<pid>.jpg (or data/images)

testmini, 1,000 questions, is the only split with public answers. The question is the official query, which states the
form of the answer; it is built here if query.json does not exist. The query lists its choices itself, so the sample has
no options, and its answer is the letter. Category: the task.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, first_existing, option_letter, parse_rows, read_json
from r2t2_jax.datasets.prompts import official_query
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

FORMS = ("text", "integer", "float", "list")
PRECISIONS = (1, 2)


def read(folder: Path, split: str) -> Records:
    """Yields one record per problem."""
    path = find_path(folder, f"data/{split}.json", f"{split}.json", what="problems file")
    queries = read_json(path.with_name("query.json"), dict) if path.with_name("query.json").exists() else {}

    def parse(row: Fields) -> Record:
        """The record of a row."""
        _check_form(row)
        identifier, image = row.text("pid"), row.text("image")
        choices = row.texts("choices") if row.text("question_type") == "multi_choice" else []
        query = queries.get(identifier) or official_query(row.values)
        return Record(
            id=identifier,
            image=first_existing(folder, image, f"data/{image}"),
            question=query,
            answers=(_answer(row, choices),),
            style="plain",
            category=row.object("metadata").text("task"),
            split=split,
            where=row.where,
        )

    problems = read_json(path, dict)
    yield from parse_rows(
        path, ((f"problem {pid}", {"pid": pid, **_object(row)}) for pid, row in problems.items()), parse
    )


def _object(row: object) -> dict[str, object]:
    return row if isinstance(row, dict) else {"question": row}


def _check_form(row: Fields) -> None:
    kind, question = row.text("answer_type"), row.text("question_type")
    if kind not in FORMS:
        raise R2T2Error(f"{row.where}: unknown answer_type {kind!r}; known: {', '.join(FORMS)}")
    if (kind == "text") != (question == "multi_choice"):
        raise R2T2Error(f"{row.where}: answer_type {kind!r} does not go with question_type {question!r}")
    if kind == "float" and row.values.get("precision") not in PRECISIONS:
        raise R2T2Error(f"{row.where}: a float answer needs a precision of 1 or 2, not {row.values.get('precision')!r}")


def _answer(row: Fields, choices: list[str]) -> str:
    answer = row.text("answer")
    if not choices:
        return answer
    if answer not in choices:
        raise R2T2Error(f"{row.where}: answer {answer!r} is not one of the choices")
    return option_letter(choices.index(answer), choices, row.where)


DATASETS = (
    DatasetSpec(
        name="mathvista",
        title="MathVista testmini",
        read=read,
        splits=("testmini",),
        files="data/testmini.json, data/query.json, images/*.jpg",
        metric="mathvista",
        license="CC BY-SA 4.0",
        home="https://mathvista.github.io",
        role="reference",
        paper_size=5000,
    ),
)
