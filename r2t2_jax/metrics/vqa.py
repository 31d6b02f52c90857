"""VQA accuracy: min(1, matches / 3), averaged over leaving out each human answer once (Antol et al. 2015, section 4).

`Sample.answers` holds all ten human answers with repeats. If n of ten match, the score is 0, 0.3, 0.6 and 0.9 for n = 0
to 3, and 1 for n >= 4.
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
    """The spellings of the word with one apostrophe left out."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS: dict[str, str] = {
    wrong: word for word in (_ONE_APOSTROPHE + _MORE_APOSTROPHES).split() for wrong in _misspellings(word)
} | {"somebody'd": "somebodyd"}

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_PERIOD_NOT_AFTER_DIGIT = re.compile(r"(?<!\d)\.(?!\d)")
_MAX_PERIODS = 32  # upstream passes the flag re.UNICODE, which is 32, as the argument `count`
_ARTICLES = ("a", "an", "the")
_DIGITS = {"none": "0"} | {
    word: str(digit)
    for digit, word in enumerate("zero one two three four five six seven eight nine ten".split())  # noqa: SIM905
}
TEXTVQA_ANSWERS = 10


def vqa(prediction: str, sample: Sample) -> float:
    """VQA v2 (vqaEval.py): if all human answers are equal, nothing is normalized, not even case."""
    answers = [one_line(answer) for answer in sample.answers]
    if len(set(answers)) == 1:
        return leave_one_out(one_line(prediction), answers)
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in answers])


def vqa_llava(prediction: str, sample: Sample) -> float:
    """LLaVA and MoVA (convert_vqav2_for_submission.py): `vqa` of the prediction after EvalAI's normalization."""
    return vqa(normalize_evalai(prediction), sample)


def vqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/vqav2: the rules of VQA v2, but always normalized, even if all answers are equal."""
    return leave_one_out(normalize_vqa(prediction), [normalize_vqa(answer) for answer in sample.answers])


def vqa_vlmevalkit(prediction: str, sample: Sample) -> float:
    """VLMEvalKit, method vqa_score: always normalized, by its own rules."""
    return leave_one_out(normalize_vlmevalkit(prediction), [normalize_vlmevalkit(answer) for answer in sample.answers])


def textvqa(prediction: str, sample: Sample) -> float:
    """TextVQA as EvalAI scores it (mmf, m4c_evaluators.py): 0.0 unless the sample has exactly ten answers."""
    return textvqa_lmms_eval(prediction, sample) if len(sample.answers) == TEXTVQA_ANSWERS else 0.0


def textvqa_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, tasks/textvqa: the rules of EvalAI for any number of answers."""
    return leave_one_out(normalize_evalai(prediction), [normalize_evalai(answer) for answer in sample.answers])


def evalai_match(prediction: str, sample: Sample) -> float:
    """1.0 if the prediction equals an answer after EvalAI's normalization (mmf, STVQAAccuracyEvaluator), else 0.0."""
    return float(normalize_evalai(prediction) in {normalize_evalai(answer) for answer in sample.answers})


def leave_one_out(prediction: str, answers: Sequence[str]) -> float:
    """The mean over all answers of min(1, matches among the other answers / 3); 0.0 without answers."""
    matches = sum(answer == prediction for answer in answers)
    scores = [min(1.0, (matches - (answer == prediction)) / 3) for answer in answers]
    return sum(scores) / len(scores) if scores else 0.0


def normalize_vqa(text: str) -> str:
    """Normalize by the rules of VQA v2: `'Two dogs, the  End.'` becomes `'2 dogs end'`."""
    return _digits_and_articles(_punctuation(one_line(text), _PERIOD))


def normalize_evalai(text: str) -> str:
    """Normalize by the rules of VQA v2 after removing commas and question marks and separating `'s`."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return normalize_vqa(text)


def normalize_vlmevalkit(text: str) -> str:
    """Normalize by the rules of VQA v2, but keep the full stop of `'3.'`."""
    return _digits_and_articles(punctuation_vlmevalkit(one_line(text)))


def punctuation_vlmevalkit(text: str) -> str:
    """The punctuation rules of VLMEvalKit, which its yes/no parser also uses."""
    return _punctuation(text, _PERIOD_NOT_AFTER_DIGIT)


def one_line(text: str) -> str:
    """The text with line breaks and tabs replaced by spaces, and stripped."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str, period: re.Pattern[str]) -> str:
    number = _COMMA_IN_NUMBER.search(text) is not None
    result = text
    for mark in _MARKS:
        dropped = number or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if dropped else " ")
    return period.sub("", result, count=_MAX_PERIODS)


def _digits_and_articles(text: str) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
