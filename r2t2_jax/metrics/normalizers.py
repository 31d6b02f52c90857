"""The three published normalisers of short answers.

`normalize_vqa`        VQA v2's own (GT-Vision-Lab/VQA, vqaEval.py)
`normalize_evalai`     EvalAI's, used for TextVQA, ST-VQA and submissions (facebookresearch/mmf, m4c_evaluators.py)
`normalize_vlmevalkit` VLMEvalKit's (vlmeval/dataset/utils/vqa_eval.py): a full stop behind a digit stays

Their oddities are part of the scores and are kept: a punctuation mark is dropped where the text has a space beside any
mark of its kind or a comma between digits, and becomes a space otherwise; only the first 32 full stops are dropped.
"""

from __future__ import annotations

import re

from r2t2_jax.metrics.contractions import CONTRACTIONS

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_NOT_BEHIND_DIGIT = re.compile(r"(?<!\d)\.(?!\d)")
_MOST_PERIODS = 32  # upstream hands the flag re.UNICODE, which is 32, to the argument `count`
_ARTICLES = ("a", "an", "the")
_DIGITS = {"none": "0"} | {
    word: str(digit)
    for digit, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
}


def normalize_vqa(text: str) -> str:
    """`'Two dogs, the  End.'` becomes `'2 dogs end'`; VQA v2's own rules."""
    return _digits_and_articles(_punctuation(one_line(text), _PERIOD))


def normalize_evalai(text: str) -> str:
    """VQA's rules on a text whose commas and question marks are gone and whose `'s` stands apart."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_vqa(text)


def normalize_vlmevalkit(text: str) -> str:
    """VQA's rules, but `'3.'` keeps its full stop."""
    return _digits_and_articles(punctuation_vlmevalkit(one_line(text)))


def punctuation_vlmevalkit(text: str) -> str:
    """VLMEvalKit's handling of punctuation alone, which its yes/no reading uses too."""
    return _punctuation(text, _PERIOD_NOT_BEHIND_DIGIT)


def one_line(text: str) -> str:
    """Line breaks and tabs as spaces, none at either end."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str, period: re.Pattern[str]) -> str:
    number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _MARKS:
        dropped = number or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if dropped else " ")
    return period.sub("", result, count=_MOST_PERIODS)


def _digits_and_articles(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
