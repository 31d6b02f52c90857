"""How Cambrian reads an answer (cambrian-mllm/cambrian, eval/eval/*/*_test.py)."""

from __future__ import annotations

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
