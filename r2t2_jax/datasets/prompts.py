"""Formats prompts as the benchmarks do, and parses published prompts.

A port formats a sample's question and style with its own prompt template. The forms here are those that LLaVA, MoAI,
MoVA and lmms-eval share; the last functions format MathVista's queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from r2t2_jax.contract import options_by_letter

SUFFIX = {
    "letter": "\nAnswer with the option's letter from the given choices directly.",
    "word": "\nAnswer the question using a single word or phrase.",
    "plain": "",
}
YES_NO = "Please answer yes or no."
_OCR = "Reference OCR token:"
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


def as_prompt(question: str, options: Sequence[str] = (), style: str = "plain") -> str:
    """The question, one lettered option per line, and the suffix that requests the form of answer."""
    return "\n".join([question, *lettered(options)]) + SUFFIX[style]


def lettered(options: Sequence[str]) -> list[str]:
    """`A. first`, `B. second`, ...; an empty option is left out, the options after it keep their letters."""
    return [f"{letter}. {option}" for letter, option in options_by_letter(options).items()]


def split_prompt(prompt: str) -> tuple[str, tuple[str, ...], str]:
    """Question, options and style of a prompt in the format of `as_prompt`; an option may span several lines."""
    style = next((name for name in ("letter", "word") if prompt.endswith(SUFFIX[name])), "plain")
    lines = prompt.removesuffix(SUFFIX[style]).split("\n")
    firsts = [i for i, line in enumerate(lines) if line.startswith("A. ")] if style != "word" else []
    options = _joined_options(lines[firsts[-1] :]) if firsts else []
    if len(options) < 2:
        return "\n".join(lines), (), style
    return "\n".join(lines[: firsts[-1]]), tuple(option[len("A. ") :] for option in options), style


def _joined_options(lines: Sequence[str]) -> list[str]:
    """One string per option: a line that begins with the next letter, joined with the lines that follow it."""
    options: list[str] = []
    for line in lines:
        if len(options) < len(ascii_uppercase) and line.startswith(f"{ascii_uppercase[len(options)]}. "):
            options.append(line)
        else:
            options[-1] += f"\n{line}"
    return options


def mme_question(text: str) -> str:
    """An official MME question without its request to answer yes or no, which the style `word` replaces."""
    return text.strip().replace(f" {YES_NO}", "")


def textvqa_question(question: str, ocr_tokens: Sequence[str] = ()) -> str:
    """A TextVQA question with a capital first letter, followed by the OCR tokens of the image if there are any."""
    return "\n".join([question.capitalize(), *([f"{_OCR} {', '.join(ocr_tokens)}"] if ocr_tokens else [])])


def split_textvqa_prompt(prompt: str) -> tuple[str, str]:
    """The question of a TextVQA prompt and its other lines, the OCR tokens; without the request."""
    lines = prompt.removesuffix(SUFFIX["word"]).split("\n")
    question = lines.pop(1 if prompt.startswith(_OCR) and len(lines) > 1 else 0)
    return question, "\n".join(lines)


def question_of_textvqa_prompt(prompt: str) -> str:
    """The question of a TextVQA prompt in lower case, the key of its answers."""
    return split_textvqa_prompt(prompt)[0].lower()


def question_of_document(task: str, document: Any) -> str:
    """The question of a document of lmms-eval as the reader of the same benchmark gives it; empty if there is none.

    A hint precedes the question as in MMBench and ScienceQA, MathVista's question is its query, and MME's sentence that
    asks for yes or no is removed.

    Args:
        task: name of the task.
        document: a row of the task's dataset.
    """
    question = document.get("question") if isinstance(document, Mapping) else None
    if not isinstance(question, str):
        return ""
    if task.startswith("mathvista") and isinstance(document.get("query"), str):
        return str(document["query"])
    if task.startswith("mme"):
        return mme_question(question)
    hint = document.get("hint")
    if not isinstance(hint, str) or hint in ("", "nan"):
        return question
    return f"Context: {hint}\n{question}" if task.startswith("scienceqa") else f"{hint}\n{question}"


def official_query(problem: Mapping[str, Any]) -> str:
    """The query of MathVista's `query.json`: hint, question, choices."""
    hint, *rest = (_hint(problem), _question(problem), *_choices(problem))
    return "\n".join([hint, *rest]).strip()


def lmms_eval_query(problem: Mapping[str, Any], shot_type: str) -> str:
    """The prompt of lmms-eval for MathVista, without examples.

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
    listed = [f"({letter}) {choice}" for letter, choice in options_by_letter(choices).items()]
    return ["Choices:", *listed] if listed else []


def _hint(problem: Mapping[str, Any]) -> str:
    if problem["question_type"] == "multi_choice":
        request, form = "", "the correct option letter, e.g., A, B, C, D,"
    else:
        request, form = _answer_form(problem)
    return f"Hint: Please answer the question{request} and provide {form} at the end."


def _reasoning_hint(problem: Mapping[str, Any]) -> str:
    if problem["question_type"] == "multi_choice":
        return f"{_REASON} select the question from the choices in the following format: Answer: xxx."
    request, form = _answer_form(problem)
    return f"{_REASON} answer the question{request} and provide {form} {_FORMAT}"


def _answer_form(problem: Mapping[str, Any]) -> tuple[str, str]:
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
