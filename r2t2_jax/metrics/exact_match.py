"""Exact match, with and without normalization."""

from __future__ import annotations

import string
import unicodedata

from r2t2_jax.contract import Sample

_FINAL = " .,;:!?" + "。．｡，、；：！？।॥؟،؛۔…"  # Latin, Chinese and Japanese, Hindi, Arabic, Urdu
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction equals an accepted answer after `normalize`, else 0.0."""
    return float(normalize(prediction) in {normalize(answer) for answer in sample.answers})


def exact_text(prediction: str, sample: Sample) -> float:
    """1.0 if the stripped prediction equals the answer, else 0.0: CLEVR (openvqa) and COCO-QA (imageqa-public)."""
    return float(prediction.strip() == sample.answers[0].strip())


def startswith(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction starts with the answer, else 0.0; the metric of R2-T2's released code (evaluate.py).

    The metric is lenient: `10` is correct for `1`.
    """
    return float(prediction.startswith(sample.answers[0]))


def normalize(text: str) -> str:
    """The text in lower case, with single spaces, without final punctuation: `' Dark  Red. '` becomes `'dark red'`.

    Letters with accents are composed (NFC), so that both encodings of `café` are equal.
    """
    return " ".join(unicodedata.normalize("NFC", text).lower().split()).rstrip(_FINAL)


def remove_case_and_punctuation(text: str) -> str:
    """The text in lower case without ASCII punctuation; spaces stay."""
    return text.lower().translate(_NO_PUNCTUATION)
