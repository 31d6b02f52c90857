"""Functions that build a recorded prompt with this implementation, one per kind of prompt.

A test case is {dataset, source, input, prompt}. The input of a released question file is only an id; there the prompt
is parsed and formatted again, which fails if its form differs.
"""

from collections.abc import Callable
from typing import Any

from r2t2_jax.datasets.prompts import SUFFIX, as_prompt, lmms_eval_query, mme_question, split_prompt, textvqa_question

Case = dict[str, Any]
MOVA_MME = " Answer yes or no, and check carefully to make sure your answer is correct."


def released(style: str, ending: str = "") -> Callable[[Case], str]:
    def prompt(case: Case) -> str:
        question, options, parsed_style = split_prompt(case["prompt"].removesuffix(ending))
        assert parsed_style == style and (options or style == "word") and SUFFIX["word"] not in question
        return as_prompt(question, options, style) + ending

    return prompt


def mathvista(case: Case) -> str:
    return lmms_eval_query(case["input"], case["input"]["shot_type"])


def scienceqa(case: Case) -> str:
    problem = case["input"]
    context = f"Context: {problem['hint']}\n" if problem["hint"] else ""
    return as_prompt(context + problem["question"], problem["choices"], "letter")


PROMPTS: dict[str, Callable[[Case], str]] = {
    "ai2d": lambda case: as_prompt(case["input"]["question"], case["input"]["options"], "letter"),
    "docvqa_mova": released("word"),
    "gqa_llava": released("word"),
    "mathvista": mathvista,
    "mmbench_llava": released("plain"),  # LLaVA adds the suffix at evaluation
    "mme": lambda case: as_prompt(mme_question(case["input"]["question"]), style="word"),
    "mme_llava": released("word"),
    "mme_mova": released("word", MOVA_MME),
    "scienceqa_img": scienceqa,
    "scienceqa_llava": released("letter"),
    "textvqa_llava": released("word"),
    "textvqa": lambda case: as_prompt(textvqa_question(case["input"]["question"]), style="word"),
    "textvqa_ocr": lambda case: as_prompt(
        textvqa_question(case["input"]["question"], case["input"]["ocr_tokens"]), style="word"
    ),
    "vqav2": lambda case: as_prompt(case["input"]["question"], style="word"),
}
