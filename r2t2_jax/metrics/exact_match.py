"""Exact match after normalising what does not change an answer."""

from __future__ import annotations

from r2t2_jax.contract import Sample


def exact_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction equals any accepted answer after `normalize`, else 0.0."""
    return float(normalize(prediction) in {normalize(answer) for answer in sample.answers})


def normalize(text: str) -> str:
    """Lower case, single spaces, no punctuation at the end: `' Dark  Red. '` becomes `'dark red'`."""
    return " ".join(text.lower().split()).rstrip(" .,;:!?")
