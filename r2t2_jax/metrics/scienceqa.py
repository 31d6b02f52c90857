"""ScienceQA. The default reads letters as LLaVA and MoVA do (eval_science_qa.py), on which published numbers rest.

The authors' own script picks a random option where it finds no letter, so its score is no function of the answers.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from r2t2_jax.contract import Sample
from r2t2_jax.metrics.cambrian import after_keyword
from r2t2_jax.metrics.exact_match_lmms_eval import folded
from r2t2_jax.metrics.options import right_option

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
