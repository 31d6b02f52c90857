"""Q-Bench, perception (LLVisionQA; Wu et al. 2024), from its Hugging Face page q-future/LLVisionQA-QBench. R2-T2 tunes
its settings on it.

    llvisionqa_<split>.json      images/<img_path> (or images_llvisionqa/)

The answer is the text of a candidate; the answers of the test split are hidden. Category: kind of question, then what
it is about (a distortion or another property, of the whole image or of a part), as in `how, local distortion`.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, first_existing, numbered, option_letter, parse_rows, read_json
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error

KINDS = ("yes or no", "how", "what")  # of the field `type`
CONCERNS = ("global distortion", "global other", "local distortion", "local other")  # of the field `concern`
FOLDERS = ("images", "images_llvisionqa", ".")


def read(folder: Path, split: str) -> Records:
    """Yields one record per question with a public answer."""
    path = find_path(folder, f"llvisionqa_{split}.json", what="questions file")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        options, image = row.texts("candidates"), row.text("img_path")
        return Record(
            id=f"{image}#{row.where.rpartition(' ')[2]}",
            image=first_existing(folder, *(f"{name}/{image}" for name in FOLDERS)),
            question=row.text("question"),
            options=tuple(options),
            answers=(_letter(row.text("correct_ans"), options, row.where),),
            style="letter",
            category=f"{_name(row, 'type', KINDS)}, {_name(row, 'concern', CONCERNS)}",
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(read_json(path, list), "question"), parse)


def _letter(answer: str, options: list[str], where: str) -> str:
    """The letter of the candidate with this text; case and surrounding spaces are ignored, as MoAI's script does."""
    texts = [option.strip().lower() for option in options]
    if texts.count(answer.strip().lower()) != 1:
        raise R2T2Error(f"{where}: the answer {answer!r} is not one of the candidates {options}")
    return option_letter(texts.index(answer.strip().lower()), options, where)


def _name(row: Fields, field: str, names: tuple[str, ...]) -> str:
    number = row.integer(field)
    if not 0 <= number < len(names):
        raise R2T2Error(f"{row.where}: {field!r} is {number}; known are 0 to {len(names) - 1}")
    return names[number]


DATASETS = (
    DatasetSpec(
        name="qbench",
        title="Q-Bench, perception",
        read=read,
        splits=("dev",),
        files="llvisionqa_dev.json, images/",
        metric="qbench",
        set_score="qbench",
        license="S-Lab 1.0, non-commercial",
        home="https://github.com/Q-Future/Q-Bench",
        role="other",
    ),
)
