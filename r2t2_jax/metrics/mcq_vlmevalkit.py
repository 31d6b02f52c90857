"""How VLMEvalKit infers the chosen option from a text (vlmeval/utils/matching_util.py), but for asking ChatGPT."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
