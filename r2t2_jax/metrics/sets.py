"""Scores of a whole dataset, computed from the scores of its samples; in percent unless stated otherwise.

A set score takes the sample scores and the samples in the same order, and returns numbers by name, the benchmark's
official number first. Samples are grouped by official ids and categories.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error

PERCENT = 100.0
CIRCULAR = 1_000_000  # MMBench: pass r of a question has the index r * 1,000,000 + base
MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def accuracy(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """The mean score, followed by the mean score of each category."""
    return {"accuracy": _percent(scores)} | _means_by(scores, [sample.category for sample in samples])


def mme(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """MME: accuracy plus accuracy+ of each subtask (at most 200), and the sums over perception and cognition.

    Accuracy is the share of correct questions, accuracy+ the share of images with both questions correct. A sum covers
    the subtasks that occur; it equals the published number (at most 2000 and 800) if all of them occur.

    Raises:
        R2T2Error: an image does not have exactly two questions.
    """
    images: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for score, sample in zip(scores, samples, strict=True):
        images[sample.category][mme_image(sample.id)].append(score)
    subtasks = {}
    for subtask, pairs in images.items():
        for image, pair in pairs.items():
            if len(pair) != 2:
                raise R2T2Error(f"MME needs both questions about {image}, which has {len(pair)}; take whole images")
        questions = [score for pair in pairs.values() for score in pair]
        subtasks[subtask] = _percent(questions) + _percent([float(min(pair) == 1.0) for pair in pairs.values()])
    sums = {
        name: sum(subtasks[subtask] for subtask in members if subtask in subtasks)
        for name, members in (("perception", MME_PERCEPTION), ("cognition", MME_COGNITION))
        if any(subtask in subtasks for subtask in members)
    }
    return sums | subtasks


def mmbench(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """MMBench: CircularEval, VanillaEval, and the mean over all rows.

    `circular` is the share of questions with every rotated pass correct. `vanilla` is the share of correct first
    passes; it is left out if there is no first pass.
    """
    passes = defaultdict(list)
    first = []
    for score, sample in zip(scores, samples, strict=True):
        passes[mmbench_question(sample.id)].append(score)
        if sample.id == mmbench_question(sample.id):
            first.append(score)
    circular = {"circular": _percent([float(min(question) == 1.0) for question in passes.values()])}
    return circular | ({"vanilla": _percent(first)} if first else {}) | {"all_rows": _percent(scores)}


def cvbench(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """CV-Bench as its authors score it: 2D is the mean over its sources, 3D the score of Omni3D, overall their mean.

    A category is `source/task`. `micro` is the mean over samples, which lmms-eval reports.
    """
    source = _means_by(scores, [sample.category.partition("/")[0] for sample in samples])
    dimensions = {}
    sources_2d = [source[name] for name in ("ADE20K", "COCO") if name in source]
    if sources_2d:
        dimensions["2d"] = fmean(sources_2d)
    if "Omni3D" in source:
        dimensions["3d"] = source["Omni3D"]
    if len(dimensions) == 2:
        dimensions = {"overall": fmean(dimensions.values())} | dimensions
    return (
        dimensions | {"micro": _percent(scores)} | source | _means_by(scores, [sample.category for sample in samples])
    )


def qbench(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """Q-Bench: accuracy, then that of each kind of question and of each concern; a category is `kind, concern`."""
    parts = [sample.category.partition(", ") for sample in samples]
    return (
        {"accuracy": _percent(scores)}
        | _means_by(scores, [kind for kind, _, _ in parts])
        | _means_by(scores, [concern for _, _, concern in parts])
    )


def mme_image(identifier: str) -> str:
    """The official id that the two questions about an image share: `scene/1.jpg` for `scene/1.jpg#2`."""
    return identifier.rpartition("#")[0] or identifier


def mmbench_question(identifier: str) -> str:
    """The index of the first pass of a question."""
    return str(int(identifier) % CIRCULAR)


def _percent(scores: Sequence[float]) -> float:
    if not scores:
        raise R2T2Error("there are no samples to score")
    return PERCENT * fmean(scores)


def _means_by(scores: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """The mean score of each name, in alphabetical order; samples with an empty name are left out."""
    grouped = defaultdict(list)
    for score, name in zip(scores, names, strict=True):
        grouped[name].append(score)
    return {name: _percent(grouped[name]) for name in sorted(grouped) if name}
