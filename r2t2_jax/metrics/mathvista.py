"""MathVista (lupantech/MathVista): the official scoring without the part that needs ChatGPT.

The official scoring has two steps: extract a short answer from the response (extract_answer.py, with ChatGPT if no rule
applies), and convert it to the form of the expected answer (calculate_score.py). Here a response to which no rule
applies enters the second step unchanged.

The form of the expected answer follows from the sample. With options, or with choices listed in the official query,
the answer is a letter. Otherwise the hint in the query, or the answer itself, determines whether it is an integer, a
decimal number with a number of places, or a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from r2t2_jax.contract import Sample, options_by_letter
from r2t2_jax.metrics.anls import edit_distance
from r2t2_jax.metrics.mmbench import infer_option

_BRACKETED = re.compile(r"\(([a-zA-Z])\)")
_QUOTED = re.compile(r'The answer is "(.*)"\.')
_DECIMALS = {"one decimal place": 1, "two decimal places": 2}


@dataclass(frozen=True)
class Form:
    """The form of an answer: `kind` is text, integer, float or list; `precision` is the number of decimal places."""

    kind: str
    choices: tuple[str, ...] = ()
    precision: int | None = None


def mathvista(prediction: str, sample: Sample) -> float:
    """The authors' scoring without ChatGPT: 1.0 if the extracted answer equals the expected one, else 0.0."""
    form = form_of(sample)
    extracted = extract(prediction, form)
    return float(convert_to_form(prediction if extracted is None else extracted, form) == correct_answer(sample, form))


def mathvista_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: the authors' scoring with both texts stripped."""
    form = form_of(sample)
    extracted = extract(prediction, form)
    answer = convert_to_form(prediction if extracted is None else extracted, form)
    return float(str(answer).strip() == correct_answer(sample, form).strip())


def mathvista_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit: numbers are compared as numbers, and a list is never correct."""
    form = form_of(sample)
    answer = correct_answer(sample, form)
    if form.choices:
        letters = options_by_letter(form.choices)
        letter = infer_option(prediction, letters)
        return float(letter is not None and letters.get(letter) == answer)
    convert = {"integer": int, "float": float}.get(form.kind)
    try:
        return float(convert is not None and convert(prediction) == convert(answer))
    except (ValueError, OverflowError):
        return 0.0


def form_of(sample: Sample) -> Form:
    """The form of a sample's expected answer."""
    choices = sample.options or listed_choices(sample.question)
    if choices:
        return Form("text", choices)
    for words, precision in _DECIMALS.items():
        if words in sample.question:
            return Form("float", precision=precision)
    answer = sample.answers[0]
    if answer.startswith("["):
        return Form("list")
    return Form("float", precision=len(answer.partition(".")[2])) if "." in answer else Form("integer")


def listed_choices(query: str) -> tuple[str, ...]:
    """The choices at the end of an official query, each beginning with `(A) `, `(B) `, ...; a choice may span lines."""
    _, heading, listed = query.rpartition("\nChoices:\n")
    choices: list[str] = []
    for line in listed.split("\n") if heading else ():
        mark = f"({ascii_uppercase[len(choices) % len(ascii_uppercase)]}) "
        if line.startswith(mark):
            choices.append(line.removeprefix(mark))
        elif choices:
            choices[-1] += f"\n{line}"
    return tuple(choices)


def correct_answer(sample: Sample, form: Form) -> str:
    """The accepted answer in the official form: the text of the choice if the sample has choices."""
    answer = sample.answers[0]
    return options_by_letter(form.choices).get(answer, answer) if form.choices else answer


def extract(response: str, form: Form) -> str | None:
    """The short answer in a response (extract_answer.py); `None` where the official script would call ChatGPT."""
    if not response or response in form.choices:
        return response
    number: Any = {"integer": int, "float": float}.get(form.kind)
    try:
        if number is not None:
            return str(number(response))
    except ValueError:  # the response is not a number
        number = None
    quoted = _QUOTED.search(response)
    return quoted.group(1) if quoted else None


def convert_to_form(extracted: str, form: Form) -> str | None:
    """The extracted answer in the expected form (calculate_score.py); `None` if it cannot be converted."""
    if form.kind == "text":
        return _choice(extracted.strip(), form.choices)
    try:
        if form.kind == "integer":
            return str(int(float(extracted)))
        if form.kind == "float":
            return str(round(float(extracted), form.precision))
    except (ValueError, OverflowError):
        return None
    return extracted


def _choice(text: str, choices: Sequence[str]) -> str | None:
    """The choice of a letter, otherwise the choice with the smallest edit distance; the first of equal ones."""
    bracketed = _BRACKETED.search(text)
    letter = bracketed.group(1).upper() if bracketed else text
    if letter in tuple(ascii_uppercase[: len(choices)]):
        return choices[ascii_uppercase.index(letter)]
    return min(choices, key=lambda choice: edit_distance(letter, choice), default=None)
