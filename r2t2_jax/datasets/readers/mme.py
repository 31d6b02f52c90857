"""MME (Fu et al. 2023), from its authors on request (BradyFU, Awesome-Multimodal-Large-Language-Models); for academic
research only.

    MME_Benchmark_release_version/<subtask>/<image>.jpg or .png next to <image>.txt
    for posters, celebrity, scene, landmark and artwork: <subtask>/images/ and <subtask>/questions_answers_YN/

Every image has two questions, one with the answer yes and one with no. The official id is the image's; `#1` or `#2` is
appended. The prompt style replaces the sentence "Please answer yes or no." of the questions. Splits: perception, the
paper's MME-P, and cognition.
Category: the subtask.
"""

from __future__ import annotations

from pathlib import Path

from r2t2_jax.datasets.files import Fields, find_path, parse_rows, read_text_lines, unpacked_root, visible
from r2t2_jax.datasets.prompts import mme_question
from r2t2_jax.datasets.record import DatasetSpec, InvalidRecord, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics.sets import MME_COGNITION, MME_PERCEPTION, mme_image

SUBTASKS = {"perception": MME_PERCEPTION, "cognition": MME_COGNITION}
ENDINGS = (".jpg", ".png", ".jpeg")
QUESTIONS = 2


def read(folder: Path, split: str) -> Records:
    """Yields two records per image, by subtask and then by image name."""
    root = unpacked_root(folder, "MME_Benchmark_release_version")
    for subtask in SUBTASKS[split]:
        find_path(root, subtask, what="subtask folder")
        texts = unpacked_root(root / subtask, "questions_answers_YN")
        images = unpacked_root(root / subtask, "images")
        paths = visible(texts, "*.txt")
        if not paths:
            raise R2T2Error(f"expected questions {texts}/<image>.txt, but there are none")
        for path in paths:
            yield from _questions(path, images, subtask, split)


def _questions(path: Path, images: Path, subtask: str, split: str) -> Records:
    candidates = [images / f"{path.stem}{ending}" for ending in ENDINGS]
    image = next((candidate for candidate in candidates if candidate.exists()), candidates[0])

    def parse(row: Fields) -> Record:
        """The record of a row."""
        question, tab, answer = row.text("line").rpartition("\t")
        if not tab or answer.strip() not in ("Yes", "No"):
            raise R2T2Error(f"{row.where}: expected a question, a tab and Yes or No, not {row.text('line')[:60]!r}")
        return Record(
            id=f"{subtask}/{image.name}#{row.values['number']}",
            image=image,
            question=mme_question(question),
            answers=(answer.strip(),),
            category=subtask,
            split=split,
            where=row.where,
        )

    try:
        lines = [line for line in read_text_lines(path) if line.strip()]
    except R2T2Error as error:
        yield InvalidRecord(str(error))
        return
    if len(lines) != QUESTIONS:
        yield InvalidRecord(f"{path}: expected {QUESTIONS} questions, found {len(lines)}")
        return
    rows = ((f"line {i}", {"line": line, "number": i}) for i, line in enumerate(lines, start=1))
    yield from parse_rows(path, rows, parse)


DATASETS = (
    DatasetSpec(
        name="mme",
        title="MME",
        read=read,
        splits=("perception", "cognition"),
        files="MME_Benchmark_release_version/<subtask>/",
        metric="mme",
        set_score="mme",
        group=mme_image,
        license="academic research only",
        home="https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
        role="evaluation",
        paper_size=2114,
    ),
)
