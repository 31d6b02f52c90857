"""The metrics and set scores by name: the only list of them.

A metric scores one predicted text for one sample in [0, 1]; 0.5 and more counts as correct. A plain name is the
benchmark's official scoring; `name_source` is that of another implementation. A set score makes a benchmark's numbers
of its samples' scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import anls, gqa, mathvista, mmbench, mme, sets, vqa
from r2t2_jax.metrics import multiple_choice as ai2d
from r2t2_jax.metrics import multiple_choice as aokvqa
from r2t2_jax.metrics import multiple_choice as cvbench
from r2t2_jax.metrics import multiple_choice as scienceqa
from r2t2_jax.metrics import multiple_choice as visual7w
from r2t2_jax.metrics.exact_match import exact_match, exact_text, startswith
from r2t2_jax.metrics.multiple_choice import letter_match, physbench

T = TypeVar("T")
Metric = Callable[[str, Sample], float]
SetScore = Callable[[Sequence[float], Sequence[Sample]], dict[str, float]]

METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "startswith": startswith,
    "vqa": vqa.vqa,
    "vqa_lmms_eval": vqa.vqa_lmms_eval,
    "vqa_vlmevalkit": vqa.vqa_vlmevalkit,
    "textvqa": vqa.textvqa,
    "textvqa_lmms_eval": vqa.textvqa_lmms_eval,
    "textvqa_vlmevalkit": vqa.vqa_vlmevalkit,
    "anls": anls.anls,
    "anls_m4c": anls.anls_m4c,
    "anls_lmms_eval": anls.anls_lmms_eval,
    "anls_vlmevalkit": anls.anls_vlmevalkit,
    "stvqa_accuracy": vqa.stvqa_accuracy,
    "clevr": exact_text,
    "cocoqa": exact_text,
    "visual7w": visual7w.visual7w,
    "visual7w_letter": visual7w.visual7w_letter,
    "aokvqa": aokvqa.aokvqa,
    "aokvqa_letter": aokvqa.aokvqa_letter,
    "aokvqa_direct": aokvqa.aokvqa_direct,
    "tqa": letter_match,
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
    "cvbench2d": cvbench.cvbench2d,
    "cvbench3d": cvbench.cvbench3d,
    "cvbench_lmms_eval": cvbench.cvbench_lmms_eval,
    "gqa": gqa.gqa,
    "gqa_llava": gqa.gqa_llava,
    "gqa_cambrian": gqa.gqa_cambrian,
    "gqa_lmms_eval": gqa.gqa_lmms_eval,
    "gqa_vlmevalkit": gqa.gqa_vlmevalkit,
    "scienceqa": scienceqa.scienceqa,
    "scienceqa_moai": scienceqa.scienceqa_moai,
    "scienceqa_lmms_eval": scienceqa.scienceqa_lmms_eval,
    "scienceqa_cambrian": scienceqa.scienceqa_cambrian,
    "ai2d": letter_match,
    "ai2d_moai": ai2d.ai2d_moai,
    "ai2d_lmms_eval": ai2d.ai2d_lmms_eval,
    "ai2d_cambrian": ai2d.ai2d_cambrian,
    "physbench": physbench,
}

SET_SCORES: dict[str, SetScore] = {
    "accuracy": sets.accuracy,
    "mme": sets.mme,
    "mmbench": sets.mmbench,
    "cvbench": sets.cvbench,
}


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
