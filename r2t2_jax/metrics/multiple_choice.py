"""Letters and options: what a multiple-choice sample offers, and which of it was meant.

A sample of style `letter` has the letter as its answer and the texts as its options.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.exact_match import folded


def letter_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction is the answer's letter, case and spaces around it aside (MoVA, eval_ai2d.py; TQA)."""
    return float(prediction.strip().lower() == sample.answers[0].lower())


def right_option(sample: Sample) -> str:
    """The text of the right option."""
    return sample.options[ascii_uppercase.index(sample.answers[0])]


def chosen_option(prediction: str, sample: Sample) -> str:
    """The option a lone letter stands for (`B`, `b.`, `(B)`); any other prediction as it is."""
    letter = prediction.strip().strip("().:").upper()
    if len(letter) == 1 and letter in ascii_uppercase[: len(sample.options)]:
        return sample.options[ascii_uppercase.index(letter)]
    return prediction


_KEYWORDS = ("answer is", "answer is:", "answer:")


def after_keyword(text: str) -> str:
    """Lower case; what follows the last `answer is` or `answer:`, if there is one."""
    text = text.lower().strip()
    for keyword in _KEYWORDS:
        text = text.rpartition(keyword)[2]
    return text.strip()


def first_letter(text: str) -> str:
    """The first character of the answer in lower case, brackets and punctuation aside; it may be no letter."""
    return after_keyword(text).rstrip(".:,").lstrip("(").rstrip(")")[:1]


_OPENING_LETTER = re.compile(r"^\s*([A-Z])\.")
_CAPITAL = re.compile(r"[A-Z]")


def ai2d_moai(prediction: str, sample: Sample) -> float:
    """MoAI: the first capital anywhere, so `The answer is B` is read as T. No capital at all is wrong."""
    capital = _CAPITAL.search(prediction)
    return float(capital is not None and capital.group() == sample.answers[0])


def ai2d_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: a capital and full stop at the start, or else the whole text without case and punctuation."""
    opening = _OPENING_LETTER.match(prediction)
    return float(folded(opening.group(1) if opening else prediction) == folded(sample.answers[0]))


def ai2d_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the first character of what follows `answer is`; an option's number, from 0, counts too."""
    letter = first_letter(prediction)
    return float(letter in (sample.answers[0].lower(), str(ord(sample.answers[0]) - ord("A"))))


def aokvqa(prediction: str, sample: Sample) -> float:
    """Multiple choice as the authors score it: the prediction is the very text of the right choice."""
    return float(prediction == right_option(sample))


def aokvqa_letter(prediction: str, sample: Sample) -> float:
    """The same for a model that was asked for a letter: the letter is turned into its choice first."""
    return aokvqa(chosen_option(prediction, sample), sample)


def aokvqa_direct(prediction: str, sample: Sample) -> float:
    """Direct answers: min(1, equal answers / 3) of ten, without normalising and without leaving one out."""
    return min(1.0, sum(prediction == answer for answer in sample.answers) / 3)


_LETTER = re.compile(r"[(\s]*([A-Z])", re.IGNORECASE)


def cvbench2d(prediction: str, sample: Sample) -> float:
    """Cambrian's ade_test.py and coco_test.py: the first character of the answer is the letter."""
    return float(first_letter(prediction) == sample.answers[0].lower())


def cvbench3d(prediction: str, sample: Sample) -> float:
    """Cambrian's omni_test.py: the same, or the first character is the right option's whole text."""
    return float(first_letter(prediction) in (sample.answers[0].lower(), right_option(sample)))


def cvbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's reading."""
    return float(read_letter(prediction) == sample.answers[0])


def read_letter(text: str) -> str:
    """The first letter of the text, whatever word it begins: `The answer is B` gives T; empty where none leads."""
    letter = _LETTER.match(text.strip())
    return letter.group(1).upper() if letter else ""


def physbench(prediction: str, sample: Sample) -> float:
    """1.0 for `B`, `B. ...` and also `Both`; 0.0 for `(B)`."""
    return float(prediction.startswith(sample.answers[0]))


LETTERS = "ABCDE"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def scienceqa(prediction: str, sample: Sample) -> float:
    """LLaVA's: `parse_letter` gives the right letter, and there is such an option."""
    letter = parse_letter(prediction)
    offered = ascii_uppercase[: len(sample.options)]
    return float(letter is not None and letter in offered and letter == sample.answers[0])


def scienceqa_moai(prediction: str, sample: Sample) -> float:
    """MoAI: the same on a text without the spaces around it."""
    return scienceqa(prediction.strip(), sample)


def parse_letter(text: str) -> str | None:
    """`B`, `B. ...` or exactly one `The answer is B.`; `None` for all else, `B.`, `(B)` and `b` among it."""
    if text in tuple(LETTERS):
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _SENTENCE.findall(text)
    return found[0] if len(found) == 1 else None


def scienceqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval: the letter in any case, or a capital followed by a full stop."""
    text = prediction.strip()
    if text.lower() == sample.answers[0].lower():
        return 1.0
    return float(len(text) >= 2 and text[0].isupper() and text[1] == "." and text[0] == sample.answers[0])


def scienceqa_cambrian(prediction: str, sample: Sample) -> float:
    """Cambrian: the option's text, or the letter before the first full stop, after `answer is`."""
    answer = after_keyword(prediction).rstrip(".")
    same_text = folded(answer).strip() == folded(right_option(sample)).strip()
    return float(same_text or answer.split(".")[0] == sample.answers[0].lower())


def visual7w(prediction: str, sample: Sample) -> float:
    """As the authors score it: the prediction is the candidate's text."""
    return float(prediction.lower() == right_option(sample).lower())


def visual7w_letter(prediction: str, sample: Sample) -> float:
    """The same for a model that was asked for a letter: the letter is turned into its candidate first."""
    return visual7w(chosen_option(prediction, sample), sample)
