"""GQA accuracy. The authors compare unchanged texts; the other implementations normalize the prediction first."""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.exact_match import remove_case_and_punctuation


def gqa(prediction: str, sample: Sample) -> float:
    """The authors (eval.py): equal texts, including case and spaces."""
    return float(prediction == sample.answers[0])


def gqa_llava(prediction: str, sample: Sample) -> float:
    """LLaVA and MoVA (convert_gqa_for_eval.py): `gqa` of the prediction in lower case without a final full stop."""
    return gqa(prediction.rstrip(".").lower(), sample)


def gqa_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: as `gqa_llava`, with the answer also in lower case."""
    return float(prediction.lower().rstrip(".") == sample.answers[0].lower())


def gqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: equal without case and punctuation; surrounding spaces count."""
    return float(remove_case_and_punctuation(prediction) == remove_case_and_punctuation(sample.answers[0]))


def gqa_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit: equal without case and surrounding spaces."""
    return float(prediction.strip().lower() == sample.answers[0].strip().lower())
