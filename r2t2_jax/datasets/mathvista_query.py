"""MathVista's queries: a problem's question, unit, choices and a hint at the form of its answer.

Official queries have the hint first (lupantech/MathVista, data/query.json); lmms-eval has more kinds of prompt
(tasks/mathvista/mathvista_evals.py), its `shot_type`.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from r2t2_jax.datasets.prompts import SUFFIX, lettered

_PLACES = {1: "one decimal place", 2: "two decimal places"}
_EXAMPLES = {
    "integer": "e.g., 1, 2, 3,",
    1: "e.g., 1.2, 1.3, 1.4,",
    2: "e.g., 1.23, 1.34, 1.45,",
    "list": "e.g., [1, 2, 3], [1.2, 1.3, 1.4],",
}
_REASON = "First perform reasoning, then finally"
_FORMAT = "at the end in the following format: Answer: xxx."
_CODE = "Hint: Please generate a python code to solve the problem"
_CLOSING = {"solution": "Solution:", "code": "Python code:"}


def official_query(problem: Mapping[str, Any]) -> str:
    """The query of `query.json`: hint, question, choices."""
    hint, *rest = (_hint(problem), _question(problem), *_choices(problem))
    return "\n".join([hint, *rest]).strip()


def lmms_eval_query(problem: Mapping[str, Any], shot_type: str) -> str:
    """lmms-eval's prompt without examples.

    Args:
        problem: a record of the official file.
        shot_type: format-prompt, step-by-step, reason-first, solution, code or direct.
    """
    if shot_type == "format-prompt":
        options = lettered(problem["choices"] or ())
        return "\n".join([_question(problem, label=""), *options, _short_hint(problem)])
    body = [_question(problem), *_choices(problem)]
    if shot_type == "reason-first":
        return "\n".join([_reasoning_hint(problem), *body])
    if shot_type == "direct":
        return "\n".join(body)
    hint = _CODE if shot_type == "code" else _hint(problem)
    return "\n".join([*body, hint, *([_CLOSING[shot_type]] if shot_type in _CLOSING else [])])


def _question(problem: Mapping[str, Any], label: str = "Question: ") -> str:
    unit = f" (Unit: {problem['unit']})" if problem.get("unit") else ""
    return f"{label}{problem['question']}{unit}"


def _choices(problem: Mapping[str, Any]) -> list[str]:
    choices = problem["choices"] or ()
    listed = [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return ["Choices:", *listed] if listed else []


def _hint(problem: Mapping[str, Any]) -> str:
    if problem["question_type"] == "multi_choice":
        ask, give = "", "the correct option letter, e.g., A, B, C, D,"
    else:
        ask, give = _asked_form(problem)
    return f"Hint: Please answer the question{ask} and provide {give} at the end."


def _reasoning_hint(problem: Mapping[str, Any]) -> str:
    if problem["question_type"] == "multi_choice":
        return f"{_REASON} select the question from the choices in the following format: Answer: xxx."
    ask, give = _asked_form(problem)
    return f"{_REASON} answer the question{ask} and provide {give} {_FORMAT}"


def _asked_form(problem: Mapping[str, Any]) -> tuple[str, str]:
    kind, precision = problem["answer_type"], problem["precision"]
    if kind == "list":
        return " requiring a Python list as an answer", f"the final list, {_EXAMPLES['list']}"
    if kind == "integer":
        return " requiring an integer answer", f"the final value, {_EXAMPLES['integer']}"
    return f" requiring a floating-point number with {_PLACES[precision]}", f"the final value, {_EXAMPLES[precision]}"


def _short_hint(problem: Mapping[str, Any]) -> str:
    if problem["question_type"] == "multi_choice":
        return SUFFIX["letter"].strip()
    if problem["answer_type"] == "float":
        form = f"single floating-point number with {_PLACES[problem['precision']]}"
    else:
        form = {"integer": "single integer number", "list": "Python list"}[problem["answer_type"]]
    return f"Answer the question using a {form}."
