"""The set "pocket": questions on drawn scenes, by split and seed."""

from __future__ import annotations

import numpy as np

from ports.pocket.questions import Question, write_question
from ports.pocket.scenes import SPLITS, Scene, make_scene, render
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

SIZES = {"train": 12_000, "gate": 4_000, "reference": 4_000, "validation": 1_000, "test": 1_000}
_QUESTIONS = 1  # keeps the random stream of questions apart from that of scenes


def question_on(scene: Scene, split: str, seed: int, number: int) -> Question | None:
    """The question that belongs to scene `number` of a split."""
    rng = np.random.default_rng((SPLITS.index(split), seed, number, _QUESTIONS))
    return write_question(rng, scene, split)


def load(split: str, n: int | None, seed: int) -> list[Sample]:
    """One question on each of n scenes. `category` is the family; `experts` are the ones a person would use.

    Args:
        split: train, gate, reference, validation or test; disjoint in scenes. Reference and test differ in phrasing and
            image statistics; the gate and the references never see the phrasings of the test split.
        n: how many samples; `None` for the split's own number.
        seed: draws the split afresh.

    Raises:
        R2T2Error: no such split.
    """
    if split not in SPLITS:
        raise R2T2Error(f"dataset 'pocket' has no split {split!r}; it has {', '.join(SPLITS)}")
    wanted = SIZES[split] if n is None else n
    samples: list[Sample] = []
    number = 0
    while len(samples) < wanted:
        scene = make_scene(split, seed, number)
        question = question_on(scene, split, seed, number)
        if question is not None:  # a few scenes allow no question of the family that was drawn
            samples.append(
                Sample(
                    id=f"pocket-{split}-{seed}-{number}",
                    image=render(scene),
                    question=question.text,
                    answers=(question.answer,),
                    style="word",
                    category=question.family,
                    split=split,
                    experts=question.experts,
                )
            )
        number += 1
    return samples
