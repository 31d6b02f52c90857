"""VQA accuracy: min(1, matches / 3), averaged over leaving each human answer out in turn.

`Sample.answers` holds every human answer, ten of them, repeats included. With n of ten matching, the score is 0, 0.3,
0.6, 0.9 for n = 0 to 3, and 1 from there on (Antol et al. 2015, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.normalizers import normalize_evalai, normalize_vlmevalkit, normalize_vqa, one_line

TEXTVQA_ANSWERS = 10


def vqa(prediction: str, sample: Sample) -> float:
    """VQA v2's own (vqaEval.py): where all human answers are equal, nothing is normalised, not even case."""
    answers = [one_line(answer) for answer in sample.answers]
    if len(set(answers)) == 1:
        return leave_one_out(one_line(prediction), answers)
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in answers])


def vqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/vqav2: VQA's rules, but everything is normalised even where all answers are equal."""
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in sample.answers])


def vqa_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit, method vqa_score: everything normalised by its own rules."""
    return leave_one_out(normalize_vlmevalkit(prediction), [normalize_vlmevalkit(answer) for answer in sample.answers])


def textvqa(prediction: str, sample: Sample) -> float:
    """TextVQA as EvalAI scores it (mmf, m4c_evaluators.py): exactly ten answers, or the question counts as wrong."""
    return textvqa_lmms_eval(prediction, sample) if len(sample.answers) == TEXTVQA_ANSWERS else 0.0


def textvqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/textvqa: the same rules for any number of answers."""
    return leave_one_out(normalize_evalai(prediction), [normalize_evalai(answer) for answer in sample.answers])


def stvqa_accuracy(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction is any of the answers after EvalAI's normalisation (mmf, STVQAAccuracyEvaluator)."""
    return float(normalize_evalai(prediction) in {normalize_evalai(answer) for answer in sample.answers})


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Mean over all answers of min(1, matches among the other answers / 3); 0.0 without answers."""
    matches = sum(answer == prediction for answer in answers)
    scores = [min(1.0, (matches - (answer == prediction)) / 3) for answer in answers]
    return sum(scores) / len(scores) if scores else 0.0
