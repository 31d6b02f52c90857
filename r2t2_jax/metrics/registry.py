"""The tables of metrics and set scores by name.

A metric scores one predicted text for one sample in [0, 1]; a score of at least 0.5 counts as correct. The name of a
benchmark is its official scoring; `name_source` is the scoring of another implementation. A set score computes the
numbers of a benchmark from the scores of its samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from r2t2_jax.contract import Sample, options_by_letter
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import anls, exact_match, gqa, mathvista, mmbench, mme, multiple_choice, sets, vqa

T = TypeVar("T")
Metric = Callable[[str, Sample], float]
SetScore = Callable[[Sequence[float], Sequence[Sample]], dict[str, float]]

METRICS: dict[str, Metric] = {
    "exact_match": exact_match.exact_match,
    "startswith": exact_match.startswith,
    "vqa": vqa.vqa,
    "vqa_llava": vqa.vqa_llava,
    "vqa_lmms_eval": vqa.vqa_lmms_eval,
    "vqa_vlmevalkit": vqa.vqa_vlmevalkit,
    "textvqa": vqa.textvqa,
    "textvqa_lmms_eval": vqa.textvqa_lmms_eval,
    "textvqa_vlmevalkit": vqa.vqa_vlmevalkit,
    "anls": anls.anls,
    "anls_m4c": anls.anls_m4c,
    "anls_lmms_eval": anls.anls_lmms_eval,
    "anls_vlmevalkit": anls.anls_vlmevalkit,
    "stvqa_accuracy": vqa.evalai_match,
    "clevr": exact_match.exact_text,
    "clevr_evalai": vqa.evalai_match,
    "cocoqa": exact_match.exact_text,
    "cocoqa_evalai": vqa.evalai_match,
    "visual7w": multiple_choice.visual7w,
    "visual7w_letter": multiple_choice.visual7w_letter,
    "aokvqa": multiple_choice.aokvqa,
    "aokvqa_letter": multiple_choice.aokvqa_letter,
    "aokvqa_direct": multiple_choice.aokvqa_direct,
    "aokvqa_direct_evalai": multiple_choice.aokvqa_direct_evalai,
    "tqa": multiple_choice.letter_match,
    "mathvista": mathvista.mathvista,
    "mathvista_lmms_eval": mathvista.mathvista_lmms_eval,
    "mathvista_vlmevalkit": mathvista.mathvista_vlmevalkit,
    "mmbench": mmbench.mmbench,
    "mmbench_lmms_eval": mmbench.mmbench_lmms_eval,
    "mcq_lmms_eval": mmbench.mcq_lmms_eval,
    "mme": mme.mme,
    "mme_lmms_eval": mme.mme_lmms_eval,
    "mme_mova": mme.mme_mova,
    "mme_vlmevalkit": mme.mme_vlmevalkit,
    "cvbench2d": multiple_choice.cvbench2d,
    "cvbench3d": multiple_choice.cvbench3d,
    "cvbench_lmms_eval": multiple_choice.cvbench_lmms_eval,
    "gqa": gqa.gqa,
    "gqa_llava": gqa.gqa_llava,
    "gqa_cambrian": gqa.gqa_cambrian,
    "gqa_lmms_eval": gqa.gqa_lmms_eval,
    "gqa_vlmevalkit": gqa.gqa_vlmevalkit,
    "scienceqa": multiple_choice.scienceqa,
    "scienceqa_moai": multiple_choice.scienceqa_moai,
    "scienceqa_lmms_eval": multiple_choice.scienceqa_lmms_eval,
    "scienceqa_cambrian": multiple_choice.scienceqa_cambrian,
    "ai2d": multiple_choice.letter_match,
    "ai2d_moai": multiple_choice.ai2d_moai,
    "ai2d_lmms_eval": multiple_choice.ai2d_lmms_eval,
    "ai2d_cambrian": multiple_choice.ai2d_cambrian,
    "physbench": multiple_choice.physbench,
    "qbench": mmbench.mmbench,
    "qbench_moai": multiple_choice.qbench_moai,
}

SET_SCORES: dict[str, SetScore] = {
    "accuracy": sets.accuracy,
    "mme": sets.mme,
    "mmbench": sets.mmbench,
    "cvbench": sets.cvbench,
    "qbench": sets.qbench,
}

ANSWERS = 10  # human answers of a question of VQA v2, TextVQA and A-OKVQA
_LETTERS = frozenset(  # metrics of questions whose answer is the letter of an option
    (
        *("visual7w", "visual7w_letter", "aokvqa", "aokvqa_letter", "tqa", "mmbench", "mmbench_lmms_eval"),
        *("mcq_lmms_eval", "cvbench2d", "cvbench3d", "cvbench_lmms_eval", "scienceqa", "scienceqa_moai"),
        *("scienceqa_lmms_eval", "scienceqa_cambrian", "ai2d", "ai2d_moai", "ai2d_lmms_eval", "ai2d_cambrian"),
        *("physbench", "qbench", "qbench_moai"),
    )
)
_HUMAN_ANSWERS = frozenset(  # metrics that compare with several human answers
    (
        *("vqa", "vqa_llava", "vqa_lmms_eval", "vqa_vlmevalkit", "aokvqa_direct", "aokvqa_direct_evalai"),
        *("textvqa", "textvqa_lmms_eval", "textvqa_vlmevalkit"),
    )
)
_YES_NO = frozenset(("mme", "mme_lmms_eval", "mme_mova", "mme_vlmevalkit"))


def check_samples(name: str, samples: Iterable[Sample], dataset: str) -> None:
    """Check that a metric can score the samples of a dataset.

    Raises:
        R2T2Error: a sample lacks the letters, the ten human answers, or the yes or no that the metric compares with.
    """
    for sample in samples:
        fault = _fault(name, sample)
        if fault:
            raise R2T2Error(f"metric {name} {fault}, unlike {sample.id!r} of {dataset}: choose another metric")


def needs_of_metric(name: str) -> str:
    """What a question must have for this metric, in words; empty if every question will do."""
    if name in _LETTERS:
        return "options and a letter"
    if name in _HUMAN_ANSWERS:
        return f"{ANSWERS} human answers"
    return "yes or no" if name in _YES_NO else ""


def describe_metric(name: str) -> str:
    """The first line of the metric's docstring, without marks of code."""
    return (inspect.getdoc(METRICS[name]) or "").partition("\n")[0].replace("`", "").rstrip(".")


def _fault(name: str, sample: Sample) -> str:
    """Why the metric cannot score the sample; empty if it can."""
    answer = sample.answers[0] if sample.answers else ""
    if name in _LETTERS and answer not in options_by_letter(sample.options):
        return "needs questions with options whose answer is a letter"
    if name in _HUMAN_ANSWERS and len(sample.answers) < ANSWERS:
        return f"needs {ANSWERS} human answers of each question, not {len(sample.answers)}"
    if name in _YES_NO and answer.strip().lower() not in ("yes", "no"):
        return "needs questions whose answer is yes or no"
    return ""


def get_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        R2T2Error: unknown name.
    """
    return _find(METRICS, name, "metric")


def get_set_score(name: str) -> SetScore:
    """The set score called `name`.

    Raises:
        R2T2Error: unknown name.
    """
    return _find(SET_SCORES, name, "set score")


def _find(known: dict[str, T], name: str, kind: str) -> T:
    if name not in known:
        raise R2T2Error(f"unknown {kind} {name!r}; choose one of {', '.join(known)}")
    return known[name]
