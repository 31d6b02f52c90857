"""The dataset `pocket`: questions about rendered scenes, by split and seed."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ports.pocket.questions import FAMILIES, Question, write_question
from ports.pocket.scenes import SPLITS, Scene, make_scene, render
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

SIZES = {"train": 12_000, "gate": 4_000, "reference": 4_000, "validation": 1_000, "test": 1_000, "scene": 8}
LARGEST = 100_000  # samples that are drawn at a time
ON_ONE_SCENE = 1_000  # questions that are looked for on one scene, which allows fewer
SCENE = "scene"  # the split for demonstrations: all questions are about one scene
TURNS = 8  # maximal rounds over the families in search of questions that the scene allows
_QUESTIONS = 1  # separates the random stream of questions from that of scenes


class DrawnSample(Sample):
    """A sample whose image is rendered when it is read first."""

    def __init__(self, scene: Scene | None = None, image: np.ndarray | None = None, **fields: Any) -> None:
        """`image` replaces `scene` where pixels are passed, as `dataclasses.replace` does."""
        super().__init__(image=image, **fields)
        attributes = self.__dict__  # a frozen dataclass allows no assignment
        attributes["scene"] = scene
        if image is None:
            del attributes["image"]

    def __getattr__(self, name: str) -> np.ndarray:
        """The pixels, uint8 [96, 96, 3], for `image`, the only attribute that is not stored at first."""
        if name != "image":
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        image = self.__dict__["image"] = render(self.__dict__["scene"])
        return image


# Samples in use by split, seed and number: a second `load` returns them, with the images that are rendered already.
_in_use = WeakValueDictionary[tuple[str, int, int], Sample]()


def question_on(scene: Scene, split: str, seed: int, number: int) -> Question | None:
    """The question that belongs to scene `number` of a split."""
    rng = np.random.default_rng((SPLITS.index(split), seed, number, _QUESTIONS))
    return write_question(rng, scene, split)


def load(split: str, n: int | None, seed: int) -> list[Sample]:
    """One question about each of n scenes. `category` is the family; `experts` are those that the question needs.

    Args:
        split: train, gate, reference, validation or test, disjoint in scenes; or `scene`, with n questions about one
            scene. Reference and test differ in phrasing and image statistics; the gate and the references never
            see the phrasings of the test split.
        n: number of samples; `None` for the default of the split.
        seed: seed of the split's scenes and questions.

    Raises:
        R2T2Error: no such split, or more samples than are drawn at a time.
    """
    if split not in SPLITS:
        raise R2T2Error(f"dataset 'pocket' has no split {split!r}; it has {', '.join(SPLITS)}")
    if n is not None and n > LARGEST:
        raise R2T2Error(f"dataset 'pocket' draws at most {LARGEST:,} questions, not {n:,}; choose a smaller number")
    count = SIZES[split] if n is None else n
    if split == SCENE:
        return _questions_on_one_scene(count, seed)
    samples: list[Sample] = []
    number = 0
    while len(samples) < count:
        sample = _in_use.get((split, seed, number)) or _draw(split, seed, number)
        if sample is not None:
            samples.append(sample)
        number += 1
    return samples


def _draw(split: str, seed: int, number: int) -> Sample | None:
    """A sample; `None` for the few scenes that allow no question of the family that was drawn."""
    scene = make_scene(split, seed, number)
    question = question_on(scene, split, seed, number)
    if question is None:
        return None
    sample = _in_use[split, seed, number] = _sample(f"pocket-{split}-{seed}-{number}", scene, question, split)
    return sample


def _questions_on_one_scene(count: int, seed: int) -> list[Sample]:
    """Different questions, the families in turn; fewer than `count` if the scene allows no more."""
    scene = make_scene(SCENE, seed, 0)
    samples = dict[str, Sample]()
    for number in range(TURNS * min(count, ON_ONE_SCENE)):
        rng = np.random.default_rng((SPLITS.index(SCENE), seed, number, _QUESTIONS))
        question = write_question(rng, scene, SCENE, (FAMILIES[number % len(FAMILIES)],))
        if question is not None:
            samples.setdefault(question.text, _sample(f"pocket-{SCENE}-{seed}-{number}", scene, question, SCENE))
        if len(samples) == count:
            break
    return list(samples.values())


def _sample(name: str, scene: Scene, question: Question, split: str) -> Sample:
    return DrawnSample(
        scene,
        id=name,
        question=question.text,
        answers=(question.answer,),
        style="word",
        category=question.family,
        split=split,
        experts=question.experts,
    )
