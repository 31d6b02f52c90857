"""MMBench (OpenCompass): whether one pass is right. `sets.mmbench` adds the passes up to CircularEval."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.mcq_lmms_eval import extract_letter
from r2t2_jax.metrics.mcq_vlmevalkit import infer_option

_LETTERS_LMMS_EVAL = "ABCDE"
_FRAMES = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


def mmbench(prediction: str, sample: Sample) -> float:
    """As the official evaluation (VLMEvalKit, exact matching): an answer that names no option is wrong."""
    return float(infer_option(prediction, _options(sample)) == sample.answers[0])


def mmbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, static: its own inference by letter and text."""
    return float(_infer_lmms_eval(prediction, _options(sample)) == sample.answers[0])


def mcq_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's shared extraction of a letter, for any multiple-choice set."""
    return float(extract_letter(prediction, ascii_uppercase[: len(sample.options)]) == sample.answers[0])


def _options(sample: Sample) -> dict[str, str]:
    return dict(zip(ascii_uppercase, sample.options, strict=False))


def _infer_lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    words = text.split()
    for frame in ("{}", *_FRAMES):
        named = [letter for letter in _LETTERS_LMMS_EVAL if frame.format(letter) in words]
        article = frame == "{}" and "A" in words and len(words) > 3  # `A` may be no letter but the article
        if len(named) == 1 and not article:
            return named[0]
    spelled = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return spelled[0] if len(spelled) == 1 else None
