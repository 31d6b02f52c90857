"""The exact match of lmms-eval (api/metrics.py with ignore_case and ignore_punctuation)."""

from __future__ import annotations

import string

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def folded(text: str) -> str:
    """Lower case without ASCII punctuation; spaces stay."""
    return text.lower().translate(_NO_PUNCTUATION)
