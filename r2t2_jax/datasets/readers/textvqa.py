"""TextVQA 0.5.1 (Singh et al. 2019), from textvqa.org; CC BY 4.0; images from Open Images.

    TextVQA_0.5.1_<split>.json      train_images/<image id>.jpg, including those of val
    llava_textvqa_<split>_v051_ocr.jsonl (or .json, a list), LLaVA's prompts with OCR tokens; optional

Test answers are hidden. A sample has all ten human answers, the most common first. With LLaVA's file a question is
written as there, and its line of OCR tokens is the context of the sample, which the ports of MoAI and MoVA put below
the question, as in the published evaluations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from r2t2_jax.datasets.files import (
    Fields,
    check_version,
    find_path,
    get_member,
    numbered,
    parse_rows,
    read_json,
    read_text_lines,
)
from r2t2_jax.datasets.prompts import split_textvqa_prompt
from r2t2_jax.datasets.readers.vqav2 import human_answers
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_json import parse_json

VERSION = "0.5.1"

logger = logging.getLogger("r2t2")


def read(folder: Path, split: str) -> Records:
    """Yields one record per question."""
    path = find_path(folder, f"TextVQA_{VERSION}_{split}.json", what="annotations file")
    content = read_json(path, dict)
    check_version(path, content.get("dataset_version"), VERSION, "TextVQA")

    prompts = _prompts(folder, split)

    def parse(row: Fields) -> Record:
        """The record of a row."""
        question, context = row.text("question"), ""
        if prompts:
            key = row.text("image_id"), question.lower()
            if key not in prompts:
                raise R2T2Error(f"{row.where}: the file of prompts with OCR tokens has no question {question!r}")
            question, context = prompts[key]
        return Record(
            id=str(row.integer("question_id")),
            image=folder / "train_images" / f"{row.text('image_id')}.jpg",
            question=question,
            answers=human_answers(row, "answers"),
            split=split,
            where=row.where,
            context=context,
        )

    yield from parse_rows(path, numbered(get_member(path, content, "data", list), "question"), parse)


def _prompts(folder: Path, split: str) -> Mapping[tuple[str, str], tuple[str, str]]:
    """Question and OCR line by image id and lower-case question; empty without LLaVA's file."""
    name = f"llava_textvqa_{split}_v051_ocr"
    path = next((path for ending in ("jsonl", "json") if (path := folder / f"{name}.{ending}").is_file()), None)
    if path is None:
        if split == "val":  # the split of the published numbers
            logger.warning("textvqa: %s has no %s.jsonl; the published prompts have its OCR tokens", folder, name)
        return {}
    if path.suffix == ".json":
        rows = list(numbered(read_json(path, list), "prompt"))
    else:
        lines = numbered(read_text_lines(path), "line")
        rows = [(where, parse_json(line, f"{path}, {where}", lines=False).content) for where, line in lines]
    prompts = {}
    for where, row in rows:
        if not isinstance(row, dict):
            raise R2T2Error(f"{path}, {where}: expected an object")
        fields = Fields(f"{path}, {where}", row)
        question, context = split_textvqa_prompt(fields.text("text"))
        prompts[fields.text("question_id"), question.lower()] = question, context
    return prompts


DATASETS = (
    DatasetSpec(
        name="textvqa",
        title="TextVQA",
        read=read,
        splits=("val", "train"),
        files="TextVQA_0.5.1_<split>.json, train_images/*.jpg; optional: llava_textvqa_<split>_v051_ocr.jsonl",
        metric="textvqa",
        license="CC BY 4.0; images: Open Images, CC BY 2.0",
        home="https://textvqa.org",
        role="evaluation",
        paper_size=5734,
    ),
)
