"""ANLS, average normalized Levenshtein similarity, for DocVQA and ST-VQA (Biten et al. 2019).

For each accepted answer s = 1 - distance / length of the longer text. The score is the largest s, or 0.0 if it is below
the threshold. The paper writes `distance < threshold`; all implementations also accept a similarity equal to the
threshold, and so do these.
"""

from __future__ import annotations

from collections.abc import Sequence

from r2t2_jax.contract import Sample

THRESHOLD = 0.5


def anls(prediction: str, sample: Sample) -> float:
    """ANLS as the organizers' group computes it (`similarity_cvc`)."""
    return similarity_cvc(prediction, sample.answers)


def anls_m4c(prediction: str, sample: Sample) -> float:
    """ANLS of mmf, LLaVA, MoAI and MoVA (`similarity_m4c`)."""
    return similarity_m4c(prediction, sample.answers)


def anls_lmms_eval(prediction: str, sample: Sample) -> float:
    """ANLS of lmms-eval (`similarity_lmms_eval`)."""
    return similarity_lmms_eval(prediction, sample.answers)


def anls_vlmevalkit(prediction: str, sample: Sample) -> float:
    """ANLS of VLMEvalKit (`similarity_vlmevalkit`)."""
    return similarity_vlmevalkit(prediction, sample.answers)


def similarity_cvc(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Similarity of lower-case, stripped texts; 0.0 for an empty prediction and for `none` (MP-DocVQA-Framework)."""
    prediction = prediction.lower().strip()
    if prediction in ("", "none"):
        return 0.0
    return _best([_similarity(prediction, answer.lower().strip()) for answer in answers], threshold)


def similarity_m4c(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Similarity of lower-case, stripped texts; 0.0 for two empty texts, where upstream divides by zero."""
    prediction = prediction.lower().strip()
    answers = [answer.lower().strip() for answer in answers]
    if not prediction and "" in answers:
        return 0.0
    return _best([_similarity(prediction, answer) for answer in answers], threshold)


def similarity_lmms_eval(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Similarity with the distance of the texts after collapsing spaces, but the length of the original texts."""
    values = []
    for answer in answers:
        length = max(len(answer.upper()), len(prediction.upper()))
        values.append(
            1 - edit_distance(_collapse_spaces(prediction), _collapse_spaces(answer)) / length if length else 1.0
        )
    return _best(values, threshold)


def similarity_vlmevalkit(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Similarity of the texts after collapsing spaces; 1.0 for two empty texts."""
    return _best([_similarity(_collapse_spaces(prediction), _collapse_spaces(answer)) for answer in answers], threshold)


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance: the smallest number of inserted, deleted or replaced characters between two texts."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


def _similarity(first: str, second: str) -> float:
    length = max(len(first), len(second))
    return 1 - edit_distance(first, second) / length if length else 1.0


def _collapse_spaces(text: str) -> str:
    return " ".join(text.lower().split())


def _best(values: Sequence[float], threshold: float) -> float:
    best = max(values, default=0.0)
    return best if best >= threshold else 0.0
