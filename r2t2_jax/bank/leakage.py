"""Do questions of an evaluation set stand in the bank? A test question that is its own reference tells its answer.

The same image with the same question, or nearly the same, is a leak. The same image with another question, or the same
question about another image, may well be in order; both are counted.

Axis letters: B questions of the evaluation set, N references.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from r2t2_jax.bank.fingerprints import image_digest
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.contract import Sample
from r2t2_jax.hashed_words import HashedWords
from r2t2_jax.index import build_index

ALIKE = 0.9  # cosine of hashed words and word pairs: a word or two of ten changed


@dataclass(frozen=True)
class Leakage:
    """Questions of an evaluation set that meet the bank; `leaks` are ids of those in it with image and question."""

    questions: int
    same_image: int
    same_question: int
    alike_question: int
    leaks: tuple[str, ...]
    images_known: bool


def find_leakage(bank: ReferenceBank, samples: Sequence[Sample]) -> Leakage:
    """Compare an evaluation set with a bank. Without images in the bank, leaks are told by id and question alone."""
    records = list(bank.records)
    texts = [_plain(record["question"]) for record in records]
    by_image: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.get("image_sha256"):
            by_image[record["image_sha256"]].append(row)
    known = HashedWords().embed(texts)
    asked = HashedWords().embed([_plain(sample.question) for sample in samples])
    nearest = build_index(known, "exact").search(asked, 1).indices[:, 0]
    alike = (known[nearest] * asked).sum(axis=1) >= ALIKE
    same_text = set(texts)
    by_id = {(record["id"], text) for record, text in zip(records, texts, strict=True)}
    leaks, same_image = [], 0
    for sample, vector in zip(samples, asked, strict=True):
        rows = by_image.get(image_digest(sample.image), []) if by_image else []
        same_image += bool(rows)
        near = rows and (known[rows] @ vector).max() >= ALIKE
        if near or (not by_image and (sample.id, _plain(sample.question)) in by_id):
            leaks.append(sample.id)
    return Leakage(
        questions=len(samples),
        same_image=same_image,
        same_question=sum(_plain(sample.question) in same_text for sample in samples),
        alike_question=int(np.sum(alike)),
        leaks=tuple(leaks),
        images_known=bool(by_image),
    )


def _plain(question: str) -> str:
    return " ".join(question.lower().split()).rstrip(" .,;:!?")
