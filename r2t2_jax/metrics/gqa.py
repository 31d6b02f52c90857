"""GQA accuracy. The authors compare texts as they are; all others clean the prediction first, each in its own way."""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.exact_match import folded


def gqa(prediction: str, sample: Sample) -> float:
    """The authors' (eval.py): equal, case and spaces included."""
    return float(prediction == sample.answers[0])


def gqa_llava(prediction: str, sample: Sample) -> float:
    """LLaVA and MoVA (convert_gqa_for_eval.py): lower case, no full stop at the end; then the authors'."""
    return gqa(prediction.rstrip(".").lower(), sample)


def gqa_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the same on the prediction, and the answer in lower case too."""
    return float(prediction.lower().rstrip(".") == sample.answers[0].lower())


def gqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: without case and punctuation; spaces around it count."""
    return float(folded(prediction) == folded(sample.answers[0]))


def gqa_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit: without case and the spaces around it."""
    return float(prediction.strip().lower() == sample.answers[0].strip().lower())
