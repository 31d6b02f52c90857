"""The set "pocket": questions on drawn scenes, by split and seed."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from ports.pocket.questions import FAMILIES, Question, write_question
from ports.pocket.scenes import SPLITS, Scene, make_scene, render
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

SIZES = {"train": 12_000, "gate": 4_000, "reference": 4_000, "validation": 1_000, "test": 1_000, "scene": 8}
SCENE = "scene"  # the split for trying the model out: all questions are on one scene
TURNS = 8  # times the families are gone through for a question that the scene allows
_QUESTIONS = 1  # keeps the random stream of questions apart from that of scenes


def question_on(scene: Scene, split: str, seed: int, number: int) -> Question | None:
    """The question that belongs to scene `number` of a split."""
    rng = np.random.default_rng((SPLITS.index(split), seed, number, _QUESTIONS))
    return write_question(rng, scene, split)


def load(split: str, n: int | None, seed: int) -> list[Sample]:
    """One question on each of n scenes. `category` is the family; `experts` are the ones a person would use.

    Args:
        split: train, gate, reference, validation or test, disjoint in scenes; or `scene`, whose n questions are all on
            one scene. Reference and test differ in phrasing and image statistics; the gate and the references never
            see the phrasings of the test split.
        n: how many samples; `None` for the split's own number.
        seed: draws the split afresh.

    Raises:
        R2T2Error: no such split.
    """
    if split not in SPLITS:
        raise R2T2Error(f"dataset 'pocket' has no split {split!r}; it has {', '.join(SPLITS)}")
    wanted = SIZES[split] if n is None else n
    if split == SCENE:
        return _questions_on_one_scene(wanted, seed)
    samples: list[Sample] = []
    number = 0
    while len(samples) < wanted:
        scene = make_scene(split, seed, number)
        question = question_on(scene, split, seed, number)
        if question is not None:  # a few scenes allow no question of the family that was drawn
            samples.append(_sample(f"pocket-{split}-{seed}-{number}", render(scene), question, split))
        number += 1
    return samples


def _questions_on_one_scene(wanted: int, seed: int) -> list[Sample]:
    """Different questions, the families in turn; fewer than wanted where the scene allows no more."""
    scene = make_scene(SCENE, seed, 0)
    image, found = render(scene), dict[str, Sample]()
    for number in range(TURNS * wanted):
        rng = np.random.default_rng((SPLITS.index(SCENE), seed, number, _QUESTIONS))
        question = write_question(rng, scene, SCENE, (FAMILIES[number % len(FAMILIES)],))
        if question is not None:
            found.setdefault(question.text, _sample(f"pocket-{SCENE}-{seed}-{number}", image, question, SCENE))
        if len(found) == wanted:
            break
    return list(found.values())


def _sample(name: str, image: UInt8[np.ndarray, "96 96 3"], question: Question, split: str) -> Sample:
    return Sample(
        id=name,
        image=image,
        question=question.text,
        answers=(question.answer,),
        style="word",
        category=question.family,
        split=split,
        experts=question.experts,
    )
