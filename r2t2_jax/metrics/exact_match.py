"""Exact match, plain or after normalising what does not change an answer."""

from __future__ import annotations

import string

from r2t2_jax.contract import Sample


def exact_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction equals any accepted answer after `normalize`, else 0.0."""
    return float(normalize(prediction) in {normalize(answer) for answer in sample.answers})


def exact_text(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction, spaces around it aside, is the answer: CLEVR (openvqa) and COCO-QA (imageqa-public)."""
    return float(prediction.strip() == sample.answers[0].strip())


def startswith(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction begins with the answer: how R2-T2's released code decides (tianyi-lab/R2-T2 evaluate.py).

    It is generous: `10` counts for `1`.
    """
    return float(prediction.startswith(sample.answers[0]))


def normalize(text: str) -> str:
    """Lower case, single spaces, no punctuation at the end: `' Dark  Red. '` becomes `'dark red'`."""
    return " ".join(text.lower().split()).rstrip(" .,;:!?")


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def folded(text: str) -> str:
    """Lower case without ASCII punctuation; spaces stay."""
    return text.lower().translate(_NO_PUNCTUATION)
