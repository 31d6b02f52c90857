"""Questions as the benchmarks ask them: a style to a prompt, and a published prompt back to its parts.

A port turns a sample's style into its own prompt; these are the forms that LLaVA, MoAI, MoVA and lmms-eval share.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

SUFFIX = {
    "letter": "\nAnswer with the option's letter from the given choices directly.",
    "word": "\nAnswer the question using a single word or phrase.",
    "plain": "",
}
YES_NO = "Please answer yes or no."
_OCR = "Reference OCR token:"


def as_prompt(question: str, options: Sequence[str] = (), style: str = "plain") -> str:
    """The question, its options one a line behind their letters, and what form of answer is asked for."""
    return "\n".join([question, *lettered(options)]) + SUFFIX[style]


def lettered(options: Sequence[str]) -> list[str]:
    """`A. first`, `B. second`, ..."""
    return [f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]


def split_prompt(prompt: str) -> tuple[str, tuple[str, ...], str]:
    """Question, options and style of a prompt that `as_prompt` could have made; an option may be longer than a line."""
    style = next((name for name in ("letter", "word") if prompt.endswith(SUFFIX[name])), "plain")
    lines = prompt.removesuffix(SUFFIX[style]).split("\n")
    firsts = [i for i, line in enumerate(lines) if line.startswith("A. ")] if style != "word" else []
    options = _joined_options(lines[firsts[-1] :]) if firsts else []
    if len(options) < 2:
        return "\n".join(lines), (), style
    return "\n".join(lines[: firsts[-1]]), tuple(option[len("A. ") :] for option in options), style


def _joined_options(lines: Sequence[str]) -> list[str]:
    """Lines that begin with the next letter, each with the lines that follow it."""
    options: list[str] = []
    for line in lines:
        if len(options) < len(ascii_uppercase) and line.startswith(f"{ascii_uppercase[len(options)]}. "):
            options.append(line)
        else:
            options[-1] += f"\n{line}"
    return options


def mme_question(text: str) -> str:
    """An official MME question without its own request for an answer, which the style `word` replaces."""
    return text.strip().replace(f" {YES_NO}", "")


def textvqa_question(question: str, ocr_tokens: Sequence[str] = ()) -> str:
    """A TextVQA question with a capital, and the words an OCR system read in the image, where they are given."""
    return "\n".join([question.capitalize(), *([f"{_OCR} {', '.join(ocr_tokens)}"] if ocr_tokens else [])])


def question_of_textvqa_prompt(prompt: str) -> str:
    """The question in a TextVQA prompt, in lower case: the key under which answers are looked up."""
    lines = prompt.removesuffix(SUFFIX["word"]).split("\n")
    return lines[1 if prompt.startswith(_OCR) else 0].lower()
