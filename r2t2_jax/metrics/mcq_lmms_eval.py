"""How lmms-eval extracts the letter of an option (tasks/_task_utils/mcq_extract.py as of its snapshot 75571cfe)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
