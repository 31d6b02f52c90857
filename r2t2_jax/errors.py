"""The error type for bad input, and text that a terminal shows as it is."""

import re

# Control characters except newline and tab, lone surrogates, and characters that reorder or hide text around them.
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


class R2T2Error(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line prints it and exits with 2."""


def printable(text: str) -> str:
    """The text with escapes in place of characters that act on a terminal: `\\x1b[2J` for the one that clears it."""
    return _ACTIVE.sub(lambda match: ascii(match[0])[1:-1], text)
