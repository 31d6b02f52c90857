"""VQA accuracy: min(1, matches / 3), averaged over leaving each human answer out in turn.

`Sample.answers` holds every human answer, ten of them, repeats included. With n of ten matching, the score is 0, 0.3,
0.6, 0.9 for n = 0 to 3, and 1 from there on (Antol et al. 2015, section 4).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from r2t2_jax.contract import Sample

_ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
_MORE_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""


def _misspellings(word: str) -> list[str]:
    """The word with one of its apostrophes left out, each in turn."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS: dict[str, str] = {
    wrong: word for word in (_ONE_APOSTROPHE + _MORE_APOSTROPHES).split() for wrong in _misspellings(word)
} | {"somebody'd": "somebodyd"}

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


TEXTVQA_ANSWERS = 10


def vqa(prediction: str, sample: Sample) -> float:
    """VQA v2's own (vqaEval.py): where all human answers are equal, nothing is normalised, not even case."""
    answers = [one_line(answer) for answer in sample.answers]
    if len(set(answers)) == 1:
        return leave_one_out(one_line(prediction), answers)
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in answers])


def vqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/vqav2: VQA's rules, but everything is normalised even where all answers are equal."""
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in sample.answers])


def vqa_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit, method vqa_score: everything normalised by its own rules."""
    return leave_one_out(normalize_vlmevalkit(prediction), [normalize_vlmevalkit(answer) for answer in sample.answers])


def textvqa(prediction: str, sample: Sample) -> float:
    """TextVQA as EvalAI scores it (mmf, m4c_evaluators.py): exactly ten answers, or the question counts as wrong."""
    return textvqa_lmms_eval(prediction, sample) if len(sample.answers) == TEXTVQA_ANSWERS else 0.0


def textvqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/textvqa: the same rules for any number of answers."""
    return leave_one_out(normalize_evalai(prediction), [normalize_evalai(answer) for answer in sample.answers])


def stvqa_accuracy(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction is any of the answers after EvalAI's normalisation (mmf, STVQAAccuracyEvaluator)."""
    return float(normalize_evalai(prediction) in {normalize_evalai(answer) for answer in sample.answers})


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """Mean over all answers of min(1, matches among the other answers / 3); 0.0 without answers."""
    matches = sum(answer == prediction for answer in answers)
    scores = [min(1.0, (matches - (answer == prediction)) / 3) for answer in answers]
    return sum(scores) / len(scores) if scores else 0.0
