"""MoAI's prompts: the system text around the image, a question in its style, and the answer cut out of a text."""

from __future__ import annotations

import string
from collections.abc import Sequence

from r2t2_jax.errors import R2T2Error

IMAGE = "<image>"
SYSTEM = f"AI assistant should give helpful and detailed answers to user after fully understanding an image. {IMAGE}"
BEGIN, END = "[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"
ASSISTANT = "assistant\n"
_CLOSE = {
    "letter": "Answer with the option's letter from the given choices directly.",
    "word": "Answer the question using a single word or phrase.",
}
STYLES = (*_CLOSE, "plain")


def ask(question: str, options: Sequence[str], style: str) -> str:
    """The question as the benchmarks put it: MMBench's lines of options, and how to answer.

    Args:
        question: `<image>` in it is left out, as upstream's ScienceQA does: the image stands elsewhere already.
        options: of a choice; lettered.
        style: `letter`, `word` or `plain`.

    Raises:
        R2T2Error: there is no such style.
    """
    if style not in STYLES:
        raise R2T2Error(f"MoAI has no prompt style {style!r}; choose one of {', '.join(STYLES)}")
    letters = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    lines = [question.replace(IMAGE, "").strip(), *letters]
    return "\n".join([*lines, _CLOSE[style]] if style in _CLOSE else lines)


def user_turn(asked: str) -> str:
    """What stands behind the image in the benchmarks, the opening of the assistant's turn included."""
    return f" {BEGIN}user\n{asked}{END}\n{BEGIN}{ASSISTANT}"


def demo_turn(asked: str) -> str:
    """What stands behind the image in upstream's demonstration."""
    return f" USER: {asked} ASSISTANT:"


def extract_answer(text: str) -> str:
    """The answer in a decoded text: behind the last opening of the assistant's turn, up to where the turn ends."""
    return text.rsplit(ASSISTANT, 1)[-1].strip().split("[UN", 1)[0]


def extract_demo_answer(text: str) -> str:
    """As upstream's demonstration cuts: everything before the first special piece, the prompt included."""
    return text.split("[U", 1)[0]


def says_yes(answer: str) -> int:
    """HallusionBench's reading of an answer: 1 if it says yes anywhere, 0 otherwise."""
    return int("yes" in answer.lower())
