"""VQA v2, balanced real images (Goyal et al. 2017), from visualqa.org/download; annotations: CC BY 4.0; COCO images,
each under its own Flickr license.

    v2_OpenEnded_mscoco_<split>2014_questions.json      v2_mscoco_<split>2014_annotations.json
    <split>2014/COCO_<split>2014_<image id, 12 digits>.jpg

Test answers are hidden. A sample has all ten human answers, the most common first. Category: yes/no, number or other.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from r2t2_jax.datasets.files import (
    Fields,
    check_version,
    find_path,
    get_member,
    index_by,
    numbered,
    parse_rows,
    read_json,
    read_member,
)
from r2t2_jax.datasets.record import DatasetSpec, Record, Records
from r2t2_jax.errors import R2T2Error


def read(folder: Path, split: str) -> Records:
    """Yields one record per question, in the order of the questions file."""
    subset = f"{split}2014"
    path = find_path(folder, f"v2_OpenEnded_mscoco_{subset}_questions.json", what="questions file")
    answers_path = find_path(folder, f"v2_mscoco_{subset}_annotations.json", what="annotations file")
    content = read_json(path, dict)
    _check_head(path, content, subset)
    questions = get_member(path, content, "questions", list)
    annotations = index_by(read_member(answers_path, "annotations", list), "question_id")

    def parse(row: Fields) -> Record:
        """The record of a row."""
        identifier, image = row.integer("question_id"), row.integer("image_id")
        if identifier not in annotations:
            raise R2T2Error(f"{row.where}: question {identifier} has no annotation in {answers_path}")
        note = Fields(f"{answers_path}, question {identifier}", annotations[identifier])
        return Record(
            id=str(identifier),
            image=folder / subset / f"COCO_{subset}_{image:012d}.jpg",
            question=row.text("question"),
            answers=human_answers(note, "answers"),
            category=note.text("answer_type"),
            split=split,
            where=row.where,
        )

    yield from parse_rows(path, numbered(questions, "question"), parse)


def human_answers(row: Fields, name: str) -> tuple[str, ...]:
    """All human answers with repeats, the most common first; the file lists strings or objects `{answer: string}`."""
    items = row.values.get(name)
    if not isinstance(items, list) or not items:
        raise R2T2Error(f"{row.where}: {name!r} must be a list of answers")
    answers = [item.get("answer") if isinstance(item, dict) else item for item in items]
    texts = [answer for answer in answers if isinstance(answer, str)]
    if len(texts) < len(items):
        raise R2T2Error(f"{row.where}: an answer in {name!r} is not a string")
    return most_common_first(texts)


def most_common_first(answers: list[str]) -> tuple[str, ...]:
    """All answers with repeats, by decreasing frequency; equally frequent answers keep their order."""
    return tuple(text for text, count in Counter(answers).most_common() for _ in range(count))


def _check_head(path: Path, head: dict[str, Any], subset: str) -> None:
    info = head.get("info")
    check_version(path, info.get("version") if isinstance(info, dict) else None, "2.0", "VQA")
    if head.get("data_subtype", subset) != subset:
        raise R2T2Error(f"{path}: contains the split {head['data_subtype']!r}, not {subset!r}")


DATASETS = (
    DatasetSpec(
        name="vqav2",
        title="VQA v2",
        read=read,
        splits=("val", "train"),
        files="v2_OpenEnded_mscoco_<split>2014_questions.json, v2_mscoco_<split>2014_annotations.json, "
        "<split>2014/*.jpg",
        metric="vqa_llava",
        license="CC BY 4.0 (annotations); COCO images: Flickr terms",
        home="https://visualqa.org",
        role="reference",
        paper_size=5000,
    ),
)
