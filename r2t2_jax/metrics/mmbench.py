"""MMBench (OpenCompass): scores one pass of a question; `sets.mmbench` combines the passes to CircularEval."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from r2t2_jax.contract import Sample, options_by_letter

DEFAULT_LETTERS = "ABCDEFGH"
REFUSED = "Z"

# VLMEvalKit: infer_option
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILED = "Failed to obtain answer via API"
_PUNCTUATION_TO_SPACES = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SENTENCE = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_LAST_WORDS = 4

# lmms-eval: extract_letter. A format with a larger priority wins; of equal ones the last in the text wins.
_TRIMMED = ",.!?;:'\""
_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
_PHRASES = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("the ", "")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_START_PRIORITY, _END_PRIORITY, _PHRASE_PRIORITY = 10, 9, 7
_FORMAT_PRIORITIES = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}

# lmms-eval: MMBench
_LETTERS_LMMS_EVAL = "ABCDE"
_FORMATS_LMMS_EVAL = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


def mmbench(prediction: str, sample: Sample) -> float:
    """The official evaluation (VLMEvalKit, exact matching): 1.0 if `infer_option` returns the answer, else 0.0."""
    return float(infer_option(prediction, options_by_letter(sample.options)) == sample.answers[0])


def mmbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, static: the letter or the text of the option."""
    return float(_infer_lmms_eval(prediction, options_by_letter(sample.options)) == sample.answers[0])


def mcq_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's shared letter extraction for any multiple-choice dataset."""
    return float(extract_letter(prediction, list(options_by_letter(sample.options))) == sample.answers[0])


def infer_option(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option whose letter or text occurs in the answer, `Z` for a refusal, otherwise `None`.

    Args:
        text: the model's answer.
        options: option texts by letter.
    """
    return _infer_by_letter(text, options) or _infer_by_text(text, options)


def extract_letter(text: str, letters: Sequence[str] = DEFAULT_LETTERS) -> str:
    """The letter in the format of the highest priority, the last of equal ones; empty if no letter occurs."""
    text = text.strip()
    for mark in _TRIMMED:
        text = text.strip(mark)
    text = f" {text} "
    candidates = list(_candidates(text, letters))
    if not candidates:  # any occurrence
        candidates = [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    best = max(candidates, key=lambda candidate: candidate[:2], default=(0, 0, ""))
    return best[2]


def _candidates(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Yields (priority, position, letter)."""
    for form, priority in _FORMAT_PRIORITIES.items():
        for letter in letters:
            if form.format(letter) in text:
                yield priority, text.rfind(form.format(letter)), letter
    for phrase in _PHRASES:
        start = text.lower().find(phrase)
        if start >= 0:
            end = start + len(phrase)
            yield from (
                (_PHRASE_PRIORITY, text.find(letter, end), letter) for letter in letters if letter in text[end:]
            )
    stripped = text.strip()
    for letter in letters:
        if stripped.startswith(letter) and not stripped[1:2].isalpha():
            yield _START_PRIORITY, 0, letter
        if stripped.endswith(letter) and not stripped[:-1][-1:].isalpha():
            yield _END_PRIORITY, len(text) - 1, letter


def _infer_by_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of an option that is the only one among the last words, or stands in `The answer is B` anywhere.

    A letter in such a sentence counts only if it is an option's: `The answer is dog` names D only if there is a D.
    """
    if _API_FAILED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_PUNCTUATION_TO_SPACES).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) >= len(words) - _LAST_WORDS:
        return letters[0]
    if not letters and REFUSED in words:
        return REFUSED
    sentence = _SENTENCE.search(text)
    letter = sentence.group(1).upper() if sentence else ""
    return letter if letter in options else None


def _infer_by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text occurs in an answer of at most twice the length of all options together."""
    text = text.lower()
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    letters = [letter for letter, option in options.items() if option.lower() in text]
    return letters[0] if len(letters) == 1 else None


def _infer_lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    words = text.split()
    for form in ("{}", *_FORMATS_LMMS_EVAL):
        letters = [letter for letter in _LETTERS_LMMS_EVAL if form.format(letter) in words]
        article = form == "{}" and "A" in words and len(words) > 3  # `A` may be the article, not the letter
        if len(letters) == 1 and not article:
            return letters[0]
    letters = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return letters[0] if len(letters) == 1 else None
