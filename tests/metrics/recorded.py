"""Functions that score a recorded test case with this implementation, one per recorded metric.

A test case is {metric, source, prediction, reference, extra, score}. Its score is a number, a string, or `ERROR:...`
if upstream raised an exception.
"""

import os
from collections.abc import Callable
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.prompts import question_of_textvqa_prompt
from r2t2_jax.metrics import METRICS, SET_SCORES, sets
from r2t2_jax.metrics import mathvista as mv
from r2t2_jax.metrics.anls import similarity_cvc, similarity_lmms_eval, similarity_m4c, similarity_vlmevalkit
from r2t2_jax.metrics.mmbench import extract_letter, infer_option
from r2t2_jax.metrics.mme import read_yes_no, read_yes_no_lmms_eval, read_yes_no_mova, read_yes_no_vlmevalkit
from r2t2_jax.metrics.multiple_choice import parse_letter, read_letter
from r2t2_jax.metrics.vqa import normalize_evalai, normalize_vlmevalkit, normalize_vqa

SAMPLES = Path(os.environ.get("R2T2_SAMPLES", Path(__file__).parents[2].parent / "shared" / "samples"))
Case = dict[str, Any]


def sample(*answers: str, options: Any = (), category: str = "", name: str = "1", question: str = "?") -> Sample:
    options = tuple(options.values()) if isinstance(options, dict) else tuple(options or ())
    image = np.zeros((1, 1, 3), np.uint8)
    return Sample(id=name, image=image, question=question, answers=tuple(answers), options=options, category=category)


def plain(metric: str, percent: bool = False) -> Callable[[Case], float]:
    """Scores one prediction with one answer or a list of answers."""

    def score(case: Case) -> float:
        reference = case["reference"]
        answers = [reference] if isinstance(reference, str) else reference
        value = METRICS[metric](case["prediction"], sample(*answers, options=case["extra"].get("choices")))
        return 100 * value if percent else value

    return score


def lettered(metric: str, reference_kind: str = "letter", percent: bool = False) -> Callable[[Case], float]:
    """Converts the reference, a letter (`B`, `(B)`), a number from 0 or the text of an option, to a letter."""

    def score(case: Case) -> float:
        choices, reference = case["extra"].get("choices") or [], case["reference"]
        if reference_kind == "number":
            reference = ascii_uppercase[int(reference)]
        elif reference_kind == "text":
            reference = ascii_uppercase[choices.index(reference)]
        value = METRICS[metric](case["prediction"], sample(reference.strip("()"), options=choices))
        return 100 * value if percent else value

    return score


def read(function: Callable[[str], str | None], nothing: str = "") -> Callable[[Case], str]:
    """The output of a parser of texts; `None` is recorded as `nothing`."""
    return lambda case: nothing if (output := function(case["prediction"])) is None else output


def similarity(function: Callable[..., float]) -> Callable[[Case], float]:
    return lambda case: function(case["prediction"], case["reference"], case["extra"]["threshold"])


def form(case: Case) -> mv.Form:
    extra = case["extra"]
    return mv.Form(extra["answer_type"], tuple(extra["choices"] or ()), extra.get("precision"))


def mathvista_normalized(case: Case) -> str:
    return "<None>" if (answer := mv.convert_to_form(case["prediction"], form(case))) is None else answer


def mathvista_extract(case: Case) -> str:
    return "<JUDGE>" if (answer := mv.extract(case["prediction"], form(case))) is None else answer


def mathvista_official(case: Case) -> float:
    return float(mv.convert_to_form(case["prediction"], form(case)) == case["reference"])


def mathvista_lmms_eval(case: Case) -> float:
    return float(str(mv.convert_to_form(case["prediction"], form(case))).strip() == case["reference"].strip())


def mathvista_vlmevalkit(case: Case) -> float:
    judge = lettered("mathvista_vlmevalkit", "text") if case["extra"]["choices"] else plain("mathvista_vlmevalkit")
    return judge(case)


def mean_of(metric: str, scale: float = 1.0, digits: int | None = None) -> Callable[[Case], float]:
    """The mean over lists of predictions and references, rounded as upstream prints it."""

    def score(case: Case) -> float:
        samples = [sample(reference) for reference in case["reference"]]
        predictions = [prediction or "" for prediction in case["prediction"]]  # a missing prediction is wrong
        scores = [METRICS[metric](*pair) for pair in zip(predictions, samples, strict=True)]
        value = scale / 100 * SET_SCORES["accuracy"](scores, samples)["accuracy"]
        return value if digits is None else round(value, digits)

    return score


def visual7w(case: Case) -> float:
    """The mean over questions of the best score among the first k candidates; multiple choice has one candidate."""
    top = 1 if case["extra"]["mode"] == "mc" else case["extra"]["topk"]
    rights = [
        max((METRICS["visual7w"](text, sample("A", options=[answer])) for text in candidates[:top]), default=0.0)
        for candidates, answer in zip(case["prediction"], case["reference"], strict=True)
    ]
    return round(sum(rights) / len(rights), 3)


def cvbench(number: str) -> Callable[[Case], float]:
    def score(case: Case) -> float:
        by_source = case["prediction"]
        samples = [sample("A", category=f"{source}/Count") for source, hits in by_source.items() for _ in hits]
        return SET_SCORES["cvbench"]([float(hit) for hits in by_source.values() for hit in hits], samples)[number] / 100

    return score


def circular(metric: str) -> Callable[[Case], float]:
    """Scores the passes of one question; pass r has its options rotated by r."""

    def score(case: Case) -> float:
        options = case["extra"]["options_pass0"]
        samples = [
            sample(answer, options=options[r:] + options[:r], name=str(r * sets.CIRCULAR + 7))
            for r, answer in enumerate(case["reference"])
        ]
        scores = [METRICS[metric](*pair) for pair in zip(case["prediction"], samples, strict=True)]
        return SET_SCORES["mmbench"](scores, samples)["circular"] / 100

    return score


def circular_set(case: Case) -> float:
    """Scores all passes of several questions; the first option of pass r is option r of the question."""
    indices, firsts = case["extra"]["index"], case["extra"]["A"]
    samples = []
    for answer, index in zip(case["reference"], indices, strict=True):
        r, base = divmod(index, sets.CIRCULAR)
        options = [first for first, other in zip(firsts, indices, strict=True) if other % sets.CIRCULAR == base]
        samples.append(sample(answer, options=options[r:] + options[:r], name=str(index)))
    scores = [METRICS["mmbench_lmms_eval"](*pair) for pair in zip(case["prediction"], samples, strict=True)]
    return SET_SCORES["mmbench"](scores, samples)["circular"] / 100


def mme_subtask(metric: str, by_name: bool = False) -> Callable[[Case], float]:
    """Scores two questions per image: two consecutive ones, or two with the same name."""

    def score(case: Case) -> float:
        if isinstance(case["prediction"], str):
            return mme_total(metric, [case["prediction"]])[Path(case["prediction"]).stem]
        images = case["extra"]["image"]
        names = images if by_name else [str(i // 2) for i in range(len(images))]
        samples = [
            sample(answer, category="count", name=f"{name}#{i}")
            for i, (name, answer) in enumerate(zip(names, case["reference"], strict=True))
        ]
        scores = [METRICS[metric](*pair) for pair in zip(case["prediction"], samples, strict=True)]
        return SET_SCORES["mme"](scores, samples)["count"]

    return score


def mme_all_right(number: str) -> Callable[[Case], float]:
    def score(case: Case) -> float:
        samples = [
            sample(answer, category=subtask, name=f"{subtask}/1.jpg#{i}")
            for subtask in case["extra"]["subtasks"]
            for i, answer in enumerate(("Yes", "No"), start=1)
        ]
        scores = [METRICS["mme"](question.answers[0], question) for question in samples]
        return SET_SCORES["mme"](scores, samples)[number]

    return score


def mme_perception(metric: str) -> Callable[[Case], float]:
    return lambda case: mme_total(metric, [f"eval_tool/LaVIN/{name}.txt" for name in sets.MME_PERCEPTION])["perception"]


def mme_total(metric: str, files: list[str]) -> dict[str, float]:
    """Scores of recorded answer files with image, question, answer and prediction per line, two lines per image."""
    scores, samples = [], []
    for path in (SAMPLES / "mme" / name for name in files):
        if not path.exists():
            pytest.skip(f"{path} does not exist")
        for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            _, _, answer, prediction = line.split("\t")
            samples.append(sample(answer, category=path.stem, name=f"{path.stem}/{i // 2}#{i % 2 + 1}"))
            scores.append(METRICS[metric](prediction, samples[-1]))
    return SET_SCORES["mme"](scores, samples)


RECORDED: dict[str, Callable[[Case], float | str]] = {
    "ai2d_cambrian_correct": lettered("ai2d_cambrian", "number"),
    "ai2d_lmms_eval_correct": lettered("ai2d_lmms_eval"),
    "ai2d_moai_correct": lettered("ai2d_moai"),
    "ai2d_mova_correct": lettered("ai2d"),
    "anls_cvc": similarity(similarity_cvc),
    "anls_lmms_eval": similarity(similarity_lmms_eval),
    "anls_m4c": similarity(similarity_m4c),
    "anls_vlmevalkit": similarity(similarity_vlmevalkit),
    "aokvqa_da": plain("aokvqa_direct", percent=True),
    "aokvqa_mc": lettered("aokvqa", "text", percent=True),
    "clevr_accuracy": mean_of("clevr", scale=100.0, digits=2),
    "cocoqa_accuracy": mean_of("cocoqa"),
    "cvbench2d_cambrian_correct": lettered("cvbench2d"),
    "cvbench2d_vlmevalkit_overall": lambda case: cvbench("2d")(case),
    "cvbench3d_cambrian_correct": lettered("cvbench3d"),
    "cvbench_lmms_eval_correct": lettered("cvbench_lmms_eval"),
    "cvbench_lmms_eval_letter": read(read_letter),
    "cvbench_overall_by_source": cvbench("overall"),
    "cvbench_plain_accuracy": cvbench("micro"),
    "gqa_cambrian_correct": plain("gqa_cambrian"),
    "gqa_llava_pipeline_correct": plain("gqa_llava"),
    "gqa_lmms_eval_exact_match": plain("gqa_lmms_eval"),
    "gqa_official_exact": plain("gqa"),
    "gqa_vlmevalkit_accuracy": plain("gqa_vlmevalkit"),
    "mathvista_correct_lmms_eval": mathvista_lmms_eval,
    "mathvista_correct_official": mathvista_official,
    "mathvista_correct_vlmevalkit": mathvista_vlmevalkit,
    "mathvista_extract_official": mathvista_extract,
    "mathvista_normalized_official": mathvista_normalized,
    "mcq_extract_lmms_eval": lambda case: extract_letter(case["prediction"], case["extra"]["choices"]),
    "mcq_vlmevalkit_can_infer": lambda case: infer_option(case["prediction"], case["extra"]["choices"]) or "",
    "mcq_vlmevalkit_vanilla_hit": lettered("mmbench"),
    "mmbench_circular_acc_lmms_eval_static": circular("mmbench_lmms_eval"),
    "mmbench_circular_hit_vlmevalkit": circular("mmbench"),
    "mmbench_circular_set_accuracy": circular_set,
    "mme_cognition_total_official": mme_all_right("cognition"),
    "mme_parse_lmms_eval": read(read_yes_no_lmms_eval),
    "mme_parse_mova": read(read_yes_no_mova),
    "mme_parse_official": read(read_yes_no),
    "mme_parse_vlmevalkit": read(read_yes_no_vlmevalkit),
    "mme_perception_total_mova": mme_perception("mme_mova"),
    "mme_perception_total_official": mme_all_right("perception"),
    "mme_subtask_score_lmms_eval": mme_subtask("mme_lmms_eval", by_name=True),
    "mme_subtask_score_moai": mme_subtask("mme"),
    "mme_subtask_score_mova": mme_subtask("mme_mova"),
    "mme_subtask_score_official": mme_subtask("mme"),
    "normalize_evalai_m4c": read(normalize_evalai),
    "normalize_vqa_official": read(normalize_vqa),
    "normalize_vqa_vlmevalkit": read(normalize_vlmevalkit),
    "physbench_correct": plain("physbench"),
    "physbench_overall_accuracy": mean_of("physbench", scale=100.0),
    "r2t2_startswith_accuracy": mean_of("startswith"),
    "scienceqa_cambrian_correct": lettered("scienceqa_cambrian"),
    "scienceqa_llava_correct": lettered("scienceqa"),
    "scienceqa_llava_parsed": read(parse_letter, nothing="FAILED"),
    "scienceqa_lmms_eval_correct": lettered("scienceqa_lmms_eval"),
    "scienceqa_moai_correct": lettered("scienceqa_moai"),
    "stvqa_accuracy_m4c": plain("stvqa_accuracy"),
    "textvqa_lmms_eval_accuracy": plain("textvqa_lmms_eval"),
    "textvqa_m4c_accuracy": plain("textvqa"),
    "textvqa_prompt_to_question": read(question_of_textvqa_prompt),
    "textvqa_vlmevalkit_vqa_score": plain("textvqa_vlmevalkit"),
    "visual7w_accuracy": visual7w,
    "vqa_accuracy_lmms_eval": plain("vqa_lmms_eval"),
    "vqa_accuracy_official": plain("vqa"),
}
