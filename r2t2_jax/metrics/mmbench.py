"""MMBench (OpenCompass): whether one pass is right. `sets.mmbench` adds the passes up to CircularEval."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase

from r2t2_jax.contract import Sample

DEFAULT_LETTERS = "ABCDEFGH"
_TRIMMED = ",.!?;:'\""
_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
_PHRASES = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("the ", "")),
    *("my answer is", "my choice is", "i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
# How much a format is trusted; among equals the one further to the right wins.
_START, _END, _PHRASE = 10, 9, 7
_FORMATS = {"({})": 6, "{}.": 5, "{}:": 4, "{})": 3, "{} ": 2}


def extract_letter(text: str, letters: Sequence[str] = DEFAULT_LETTERS) -> str:
    """The offered letter in the most trusted format, the last of its kind; empty where there is none."""
    text = text.strip()
    for mark in _TRIMMED:
        text = text.strip(mark)
    text = f" {text} "
    found = list(_in_formats(text, letters))
    if not found:  # any occurrence at all
        found = [(0, text.rfind(letter), letter) for letter in letters if letter in text]
    best = max(found, key=lambda candidate: candidate[:2], default=(0, 0, ""))
    return best[2]


def _in_formats(text: str, letters: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Candidates as (trust, position, letter)."""
    for form, trust in _FORMATS.items():
        for letter in letters:
            if form.format(letter) in text:
                yield trust, text.rfind(form.format(letter)), letter
    for phrase in _PHRASES:
        start = text.lower().find(phrase)
        if start >= 0:
            after = start + len(phrase)
            yield from ((_PHRASE, text.find(letter, after), letter) for letter in letters if letter in text[after:])
    bare = text.strip()
    for letter in letters:
        if bare.startswith(letter) and not bare[1:2].isalpha():
            yield _START, 0, letter
        if bare.endswith(letter) and not bare[:-1][-1:].isalpha():
            yield _END, len(text) - 1, letter


REFUSED = "Z"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_API_FAILED = "Failed to obtain answer via API"
_SPACED = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SENTENCE = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_LAST_WORDS = 4


def infer_option(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option that a text names or spells out, `Z` for a refusal, or `None`.

    Args:
        text: the model's answer.
        options: letter to text.
    """
    return _by_letter(text, options) or _by_text(text, options)


def _by_letter(text: str, options: Mapping[str, str]) -> str | None:
    """One option's letter alone among the last words; `The answer is B` has it anywhere."""
    if _API_FAILED in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_SPACED).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) >= len(words) - _LAST_WORDS:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    sentence = _SENTENCE.search(text)
    return sentence.group(1).upper() if sentence else None


def _by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text occurs in an answer that is not much longer than all options together."""
    text = text.lower()
    if len(text) > 2 * sum(len(option) for option in options.values()):
        return None
    named = [letter for letter, option in options.items() if option.lower() in text]
    return named[0] if len(named) == 1 else None


_LETTERS_LMMS_EVAL = "ABCDE"
_FRAMES = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


def mmbench(prediction: str, sample: Sample) -> float:
    """As the official evaluation (VLMEvalKit, exact matching): an answer that names no option is wrong."""
    return float(infer_option(prediction, _options(sample)) == sample.answers[0])


def mmbench_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval, static: its own inference by letter and text."""
    return float(_infer_lmms_eval(prediction, _options(sample)) == sample.answers[0])


def mcq_lmms_eval(prediction: str, sample: Sample) -> float:
    """lmms-eval's shared extraction of a letter, for any multiple-choice set."""
    return float(extract_letter(prediction, ascii_uppercase[: len(sample.options)]) == sample.answers[0])


def _options(sample: Sample) -> dict[str, str]:
    return dict(zip(ascii_uppercase, sample.options, strict=False))


def _infer_lmms_eval(text: str, options: Mapping[str, str]) -> str | None:
    words = text.split()
    for frame in ("{}", *_FRAMES):
        named = [letter for letter in _LETTERS_LMMS_EVAL if frame.format(letter) in words]
        article = frame == "{}" and "A" in words and len(words) > 3  # `A` may be no letter but the article
        if len(named) == 1 and not article:
            return named[0]
    spelled = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return spelled[0] if len(spelled) == 1 else None
