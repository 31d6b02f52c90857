"""Metrics of multiple-choice datasets: AI2D, A-OKVQA, CV-Bench, PhysBench, ScienceQA, TQA and Visual7W.

A sample of style `letter` has the letter as its answer and the option texts as its options. Every metric returns 1.0
for a correct prediction and 0.0 otherwise, except `aokvqa_direct`.
"""

from __future__ import annotations

import re

from r2t2_jax.contract import Sample, options_by_letter
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics.exact_match import remove_case_and_punctuation
from r2t2_jax.metrics.vqa import normalize_evalai

SCIENCEQA_LETTERS = "ABCDE"
_ANSWER_PHRASES = ("answer is", "answer is:", "answer:")
_LEADING_LETTER_AND_STOP = re.compile(r"^\s*([A-Z])\.")
_LEADING_LETTER = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)
_CAPITAL = re.compile(r"[A-Z]")
_SCIENCEQA_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def letter_match(prediction: str, sample: Sample) -> float:
    """The prediction is the letter, ignoring case and surrounding spaces (MoVA, eval_ai2d.py; TQA)."""
    return float(prediction.strip().lower() == sample.answers[0].lower())


def ai2d_moai(prediction: str, sample: Sample) -> float:
    """MoAI: the first capital letter anywhere, so `The answer is B` is read as T; wrong without a capital."""
    capital = _CAPITAL.search(prediction)
    return float(capital is not None and capital.group() == sample.answers[0])


def ai2d_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: a leading capital with a full stop, otherwise the whole text without case and punctuation."""
    leading = _LEADING_LETTER_AND_STOP.match(prediction)
    text = leading.group(1) if leading else prediction
    return float(remove_case_and_punctuation(text) == remove_case_and_punctuation(sample.answers[0]))


def ai2d_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the first character after `answer is`; the option number, counted from 0, is also correct."""
    letter, right = first_character(prediction), correct_letter(sample)
    return float(letter in (right.lower(), str(ord(right) - ord("A"))))


def aokvqa(prediction: str, sample: Sample) -> float:
    """Multiple choice as the authors score it: the prediction equals the text of the correct option."""
    return float(prediction == correct_option(sample))


def aokvqa_letter(prediction: str, sample: Sample) -> float:
    """`aokvqa` for a model that answers with a letter: the letter is first replaced by its option."""
    return aokvqa(chosen_option(prediction, sample), sample)


def aokvqa_direct(prediction: str, sample: Sample) -> float:
    """Direct answers: min(1, equal answers / 3) of ten answers, without normalization and without leave-one-out."""
    return min(1.0, sum(prediction == answer for answer in sample.answers) / 3)


def aokvqa_direct_evalai(prediction: str, sample: Sample) -> float:
    """`aokvqa_direct` after EvalAI's normalization of the prediction and the answers."""
    text = normalize_evalai(prediction)
    return min(1.0, sum(text == normalize_evalai(answer) for answer in sample.answers) / 3)


def cvbench2d(prediction: str, sample: Sample) -> float:
    """Cambrian's ade_test.py and coco_test.py: the first character of the answer is the letter."""
    return float(first_character(prediction) == sample.answers[0].lower())


def cvbench3d(prediction: str, sample: Sample) -> float:
    """Cambrian's omni_test.py: as `cvbench2d`, or the first character equals the whole text of the correct option."""
    return float(first_character(prediction) in (sample.answers[0].lower(), correct_option(sample)))


def cvbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: the letter that `read_letter` finds is the answer."""
    return float(read_letter(prediction) == sample.answers[0])


def physbench(prediction: str, sample: Sample) -> float:
    """The prediction starts with the letter: correct for `B`, `B. ...` and `Both`, wrong for `(B)`."""
    return float(prediction.startswith(sample.answers[0]))


def qbench_moai(prediction: str, sample: Sample) -> float:
    """MoAI's evaluate_qbench.py: the position of the whole answer in ABCD; any other answer is the last option.

    The empty answer is option A, and `B.` the last option. The text of the option counts, without case.
    """
    position = "ABCD".find(prediction.strip())
    if position >= len(sample.options):
        return 0.0  # the script ends with an error
    return float(sample.options[position].lower() == correct_option(sample).lower())


def scienceqa(prediction: str, sample: Sample) -> float:
    """LLaVA: `parse_letter` returns the answer, and there is an option with that letter."""
    letter = parse_letter(prediction)
    return float(letter in options_by_letter(sample.options) and letter == sample.answers[0])


def scienceqa_moai(prediction: str, sample: Sample) -> float:
    """MoAI: `scienceqa` on the prediction without surrounding spaces."""
    return scienceqa(prediction.strip(), sample)


def scienceqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: the letter in either case, or a leading capital followed by a full stop."""
    text = prediction.strip()
    if text.lower() == sample.answers[0].lower():
        return 1.0
    return float(len(text) >= 2 and text[0].isupper() and text[1] == "." and text[0] == sample.answers[0])


def scienceqa_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the text of the option, or the letter before the first full stop, after `answer is`."""
    answer = after_answer_phrase(prediction).rstrip(".")
    option = correct_option(sample)
    same_text = remove_case_and_punctuation(answer).strip() == remove_case_and_punctuation(option).strip()
    return float(same_text or answer.split(".")[0] == sample.answers[0].lower())


def visual7w(prediction: str, sample: Sample) -> float:
    """As the authors score it: the prediction equals the text of the correct option, ignoring case."""
    return float(prediction.lower() == correct_option(sample).lower())


def visual7w_letter(prediction: str, sample: Sample) -> float:
    """`visual7w` for a model that answers with a letter: the letter is first replaced by its option."""
    return visual7w(chosen_option(prediction, sample), sample)


def correct_letter(sample: Sample) -> str:
    """The letter of the correct option.

    Raises:
        R2T2Error: the sample's answer is not the letter of one of its options.
    """
    letter = sample.answers[0] if sample.answers else ""
    if letter not in options_by_letter(sample.options):
        raise R2T2Error(f"sample {sample.id!r} has the answer {letter!r}, which is not the letter of an option")
    return letter


def correct_option(sample: Sample) -> str:
    """The text of the correct option; raises as `correct_letter`."""
    return options_by_letter(sample.options)[correct_letter(sample)]


def chosen_option(prediction: str, sample: Sample) -> str:
    """The option of a single letter (`B`, `b.`, `(B)`); any other prediction unchanged."""
    letter = prediction.strip().strip("().:").upper()
    return options_by_letter(sample.options).get(letter, prediction)


def after_answer_phrase(text: str) -> str:
    """The text after the last `answer is` or `answer:` if there is one, in lower case."""
    text = text.lower().strip()
    for phrase in _ANSWER_PHRASES:
        text = text.rpartition(phrase)[2]
    return text.strip()


def first_character(text: str) -> str:
    """The first character after the answer phrase in lower case, without brackets; it may not be a letter."""
    return after_answer_phrase(text).rstrip(".:,").lstrip("(").rstrip(")")[:1]


def read_letter(text: str) -> str:
    """The leading letter of the text in upper case: `The answer is B` gives T; empty if there is none."""
    letter = _LEADING_LETTER.match(text.strip())
    return letter.group(1).upper() if letter else ""


def parse_letter(text: str) -> str | None:
    """The letter of `B`, `B. ...` or exactly one `The answer is B.`; `None` otherwise, also for `B.`, `(B)` and `b`."""
    if text in tuple(SCIENCEQA_LETTERS):
        return text
    if len(text) >= 3 and text[0] in SCIENCEQA_LETTERS and text[1:3] == ". ":
        return text[0]
    letters = _SCIENCEQA_SENTENCE.findall(text)
    return letters[0] if len(letters) == 1 else None
