"""Scores of a whole set, in percent unless said otherwise, made of the scores of its samples.

A set score takes each sample's score and the samples, in the same order, and gives numbers by name; the benchmark's own
number comes first. What belongs together is read from official ids (`group_of`) and categories.
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
    """The mean score, then that of each category."""
    return {"accuracy": _percent(scores)} | _by(scores, [sample.category for sample in samples])


def mme(scores: Sequence[float], samples: Sequence[Sample]) -> dict[str, float]:
    """MME: for each subtask accuracy plus accuracy+ (at most 200), and their sums over perception and cognition.

    Accuracy is over questions, accuracy+ over images, of which both questions must be right. A sum covers the subtasks
    that occur; it is the published number (at most 2000 and 800) where all of them do.

    Raises:
        R2T2Error: an image does not have two questions.
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

    `circular`: questions of which every rotated pass is right. `vanilla`: first passes that are right; left out where
    no first pass was asked.
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
    """CV-Bench as its authors have it: 2D is the mean over its sources, 3D that of Omni3D, overall the mean of both.

    A category is `source/task`. `micro` is the plain mean that lmms-eval's tasks report.
    """
    source = _by(scores, [sample.category.partition("/")[0] for sample in samples])
    found = {}
    flat = [source[name] for name in ("ADE20K", "COCO") if name in source]
    if flat:
        found["2d"] = fmean(flat)
    if "Omni3D" in source:
        found["3d"] = source["Omni3D"]
    if len(found) == 2:
        found = {"overall": fmean(found.values())} | found
    return found | {"micro": _percent(scores)} | source | _by(scores, [sample.category for sample in samples])


def mme_image(identifier: str) -> str:
    """The official id, shared by the two questions on an image: `scene/1.jpg` of `scene/1.jpg#2`."""
    return identifier.rpartition("#")[0] or identifier


def mmbench_question(identifier: str) -> str:
    """The index of a question's first pass."""
    return str(int(identifier) % CIRCULAR)


def _percent(scores: Sequence[float]) -> float:
    if not scores:
        raise R2T2Error("there is no sample to score")
    return PERCENT * fmean(scores)


def _by(scores: Sequence[float], names: Sequence[str]) -> dict[str, float]:
    """The mean score under each name, in alphabetical order."""
    grouped = defaultdict(list)
    for score, name in zip(scores, names, strict=True):
        grouped[name].append(score)
    return {name: _percent(grouped[name]) for name in sorted(grouped) if name}
