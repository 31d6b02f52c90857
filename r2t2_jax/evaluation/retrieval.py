"""What the neighbours of a question are worth: do they need the same experts, and what they tell without the image.

Axis letters: B test samples, K neighbours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from r2t2_jax.contract import Embedder, Sample
from r2t2_jax.evaluation.collect import CORRECT
from r2t2_jax.metrics import Metric

VOTERS = 50  # neighbours whose commonest answer stands for what the question alone gives away


def same_experts(
    references: Mapping[str, Sequence[str]], samples: Sequence[Sample], neighbors: Sequence[Sequence[str]]
) -> Float[np.ndarray, "B"]:
    """Share of each sample's neighbours that need the very experts it needs.

    Args:
        references: the experts each reference needs, by its id.
        samples: the test samples.
        neighbors: ids of the neighbours of each.
    """
    needed = {name: frozenset(experts) for name, experts in references.items()}
    return np.array(
        [
            np.mean([needed[name] == frozenset(sample.experts) for name in names])
            for sample, names in zip(samples, neighbors, strict=True)
        ]
    )


def by_agreement(share: Float[np.ndarray, "B"], right: Bool[np.ndarray, "B"]) -> dict[str, Any]:
    """Accuracy where most neighbours need the same experts, and where they do not."""
    found: dict[str, Any] = {"same_experts": round(float(share.mean()), 6)}
    for name, members in {"most": share > 0.5, "few": share <= 0.5}.items():
        count = int(members.sum())
        found[name] = {"n": count, "accuracy": round(float(right[members].mean()), 6) if count else None}
    return found


def right_without_image(
    embedder: Embedder, references: Sequence[Sample], samples: Sequence[Sample], metric: Metric
) -> Bool[np.ndarray, "B"]:
    """What a blind reader gets right: the commonest answer to the reference questions most like each question.

    Reference questions count whether or not the model answers them correctly. Ties go to the nearer one's answer.
    """
    known = embedder.embed([reference.question for reference in references])
    asked = embedder.embed([sample.question for sample in samples])
    nearest = np.argsort(-asked @ known.T, axis=1, kind="stable")[:, :VOTERS]
    votes = [Counter(references[j].answers[0] for j in row) for row in nearest.tolist()]
    answers = [vote.most_common(1)[0][0] for vote in votes]
    return np.array([metric(*pair) >= CORRECT for pair in zip(answers, samples, strict=True)])
