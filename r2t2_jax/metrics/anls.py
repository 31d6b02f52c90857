"""ANLS, average normalised Levenshtein similarity, for DocVQA and ST-VQA (Biten et al. 2019).

For each accepted answer s = 1 - distance / length of the longer text; the best s counts, or 0.0 where it is below the
threshold. The paper writes `distance < threshold`; all code keeps a similarity of exactly the threshold, so do we.
"""

from __future__ import annotations

from collections.abc import Sequence

from r2t2_jax.contract import Sample


def edit_distance(first: str, second: str) -> int:
    """The least number of characters to insert, delete or replace that turns one text into the other."""
    row = list(range(len(second) + 1))
    for i, letter in enumerate(first, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(second, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != other))
    return row[-1]


THRESHOLD = 0.5


def anls(prediction: str, sample: Sample) -> float:
    """As the organisers' group scores it; see `similarity_cvc`."""
    return similarity_cvc(prediction, sample.answers)


def anls_m4c(prediction: str, sample: Sample) -> float:
    """As mmf, LLaVA, MoAI and MoVA score it; see `similarity_m4c`."""
    return similarity_m4c(prediction, sample.answers)


def anls_lmms_eval(prediction: str, sample: Sample) -> float:
    """As lmms-eval scores it; see `similarity_lmms_eval`."""
    return similarity_lmms_eval(prediction, sample.answers)


def anls_vlmevalkit(prediction: str, sample: Sample) -> float:
    """As VLMEvalKit scores it; see `similarity_vlmevalkit`."""
    return similarity_vlmevalkit(prediction, sample.answers)


def similarity_cvc(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Lower case, stripped; an empty prediction and the word `none` are worth nothing (MP-DocVQA-Framework)."""
    prediction = prediction.lower().strip()
    if prediction in ("", "none"):
        return 0.0
    return _best([_similarity(prediction, answer.lower().strip()) for answer in answers], threshold)


def similarity_m4c(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Lower case, stripped; two empty texts, by which upstream divides, are worth nothing."""
    prediction = prediction.lower().strip()
    answers = [answer.lower().strip() for answer in answers]
    if not prediction and "" in answers:
        return 0.0
    return _best([_similarity(prediction, answer) for answer in answers], threshold)


def similarity_lmms_eval(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Spaces are folded before the distance is taken, but the length is that of the raw texts."""
    values = []
    for answer in answers:
        length = max(len(answer.upper()), len(prediction.upper()))
        values.append(1 - edit_distance(_folded(prediction), _folded(answer)) / length if length else 1.0)
    return _best(values, threshold)


def similarity_vlmevalkit(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Spaces are folded first; two empty texts are equal."""
    return _best([_similarity(_folded(prediction), _folded(answer)) for answer in answers], threshold)


def _similarity(first: str, second: str) -> float:
    length = max(len(first), len(second))
    return 1 - edit_distance(first, second) / length if length else 1.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _best(values: Sequence[float], threshold: float) -> float:
    best = max(values, default=0.0)
    return best if best >= threshold else 0.0
