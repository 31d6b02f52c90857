"""Ranges of the options of all commands, and the errors of the parser in one line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2t2_jax.errors import R2T2Error


class UsageError(R2T2Error):
    """The options cannot be parsed."""


@dataclass(frozen=True)
class Range:
    """The values that a number may have.

    Args:
        low: the smallest.
        high: the largest.
        above: whether `low` itself is excluded.
        error: the error for other values, where a command has its own.
    """

    low: float
    high: float = 1e9
    above: bool = False
    error: str = ""

    def __str__(self) -> str:
        low, high = f"{self.low:g}", _short(self.high)
        return f"above {low}, at most {high}" if self.above else f"{low} to {high}"

    def check(self, option: str, value: float) -> None:
        """Raise `R2T2Error` if the value is out of range, infinite or NaN."""
        if self.low <= value <= self.high and not (self.above and value == self.low):
            return
        noun = option.removeprefix("--").replace("-", " ")
        if self.error and value < self.low:
            raise R2T2Error(self.error.format(value))
        if self.low == 0 and value < 0:
            raise R2T2Error(f"{option} {value}: the {noun} must not be negative")
        if value <= self.low and math.isfinite(value):
            limit = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
            raise R2T2Error(f"{option} {value}: it must be {limit}")
        raise R2T2Error(f"{option} {value}: it must be {self}")


def _short(number: float) -> str:
    exponent = round(math.log10(number)) if number >= 1e6 else 0
    return f"10^{exponent}" if exponent and number == 10**exponent else f"{number:.15g}"


COUNT = Range(1)
RANGES: Mapping[str, Range] = {  # by the name of the option, in every command
    **dict.fromkeys(("limit", "keep", "choosing", "references", "embedding", "block"), COUNT),
    **dict.fromkeys(("k", "atlas_k", "points", "steps", "beams", "max_new_tokens"), COUNT),
    **dict.fromkeys(("question_tokens", "answer_tokens", "permutations", "rows", "layers", "top_k"), COUNT),
    "batch_size": Range(1, error="a batch of {} samples; it must be at least 1"),
    "vmap_size": Range(1, error="a vmap size of {} samples; it must be at least 1"),
    **dict.fromkeys(("candidates", "alternatives", "count", "select"), Range(0)),
    "port": Range(0, 65535),
    "queue": Range(1, 10_000),
    "seed": Range(0, 2**32 - 1),
    "max_hours": Range(0, 1e6, above=True),
    "min_recall": Range(0, 1),
    "rate": Range(0, 1, above=True),
    "worthwhile": Range(0, 1),
    "learning_rate": Range(0, 1e6),
    "strength": Range(-1e6, 1e6),
    "fragile_threshold": Range(0, 1e6),
    "atlas_temperature": Range(0, 1e6, above=True),
    "atlas_proximal_weight": Range(0, 1e6),
}
OWN_CHECKS = {  # by command: options whose smallest value its settings check, before a model is loaded
    "Cost": ("k", "steps", "points", "references", "embedding"),
}


def check_ranges(command: Any) -> None:
    """Check the numbers of a command against `RANGES`.

    Raises:
        R2T2Error: a number is out of its range.
    """
    for field in dataclasses.fields(command):
        if field.name not in RANGES:
            continue
        value, checked = getattr(command, field.name), field.name in OWN_CHECKS.get(type(command).__name__, ())
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not (checked and number < RANGES[field.name].low):
                RANGES[field.name].check(flag(field.name), number)


def flag(name: str) -> str:
    """The option of a field."""
    return f"--{name.replace('_', '-')}"


def check_words(
    name: str,
    words: Sequence[str],
    known: Collection[str],
    switches: Collection[str],
    hints: Mapping[str, str] | None = None,
) -> None:
    """Check the words of a command line before they are parsed.

    Args:
        name: the command.
        words: after the command.
        known: names of its options.
        switches: names of those without a value.
        hints: what takes the place of an unknown option, by its name.

    Raises:
        UsageError: an option is unknown, a switch has a value, or a value is empty, no text, or a folder that is a
            file.
    """
    without_value = {flag(prefix + option) for option in switches for prefix in ("", "no_")}
    flags = {flag(option) for option in known} | {flag(f"no_{option}") for option in switches}
    last = "an argument"
    for word in words:
        option, equals, value = word.partition("=")
        is_option = word.startswith("--") and len(word) > 2
        if is_option and option.replace("_", "-") not in flags:
            if hint := (hints or {}).get(option.removeprefix("--").replace("-", "_")):
                raise UsageError(f"unknown option {option}: {hint}; {_see(name)}")
            matches = difflib.get_close_matches(option, sorted(flags), n=1)
            guess = f"; did you mean {matches[0]}?" if matches else ";"
            raise UsageError(f"unknown option {option}{guess} {_see(name)}")
        if equals and option.replace("_", "-") in without_value:
            raise UsageError(f"{option} takes no value; {_see(name)}")
        text = value if is_option else word
        if (equals or not is_option) and not text:
            raise UsageError(f"{option if is_option else last} has an empty value; leave it out, or give one")
        if "\0" in text or any(0xD800 <= ord(letter) <= 0xDFFF for letter in text):
            raise UsageError(f"{option if is_option else last} is not text in UTF-8: {text!r}")
        if text.endswith("/") and os.path.isfile(text.rstrip("/")):
            raise UsageError(f"{option if is_option else last} ends in a slash, and {text.rstrip('/')} is a file")
        last = option if is_option else last


def one_line(name: str, output: str) -> str:
    """The parser's error, which it prints in a box of several lines, as one line with a hint.

    Args:
        name: the command.
        output: what the parser printed.
    """
    lines = [line for line in output.splitlines() if line.strip(" -─│╭╮╰╯")]
    text = " ".join(" ".join(line.strip(" │") for line in lines[1:]).split())
    if "Missing from" in text:
        entries = [line.split()[0] for line in lines if re.match(r" {6}\S", line)]  # deeper lines are help texts
        return f"{', '.join(entry for entry in dict.fromkeys(entries) if entry != 'r2t2')} must be given; {_see(name)}"
    text = re.split(r"Argument helptext:|For full helptext", text)[0].strip().rstrip(".")
    value = re.search(r"Error parsing (\S+): .*?(?:literal for int\(\).*|convert string to float.*): (.*)", text)
    if value:
        kind = "a whole number" if "int()" in text else "a number"
        text = f"{value[1]} {value[2]}: it must be {kind}"
    values = re.search(r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\]", text)
    if values:
        text = f"{values[1]} {values[2]}: these values cannot be read"
    choice = re.search(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*?),?\)", text)
    if choice:
        text = f"{choice[2]} {choice[1]!r}: choose one of {choice[3].replace(chr(39), '')}"
    missing_value = re.search(r"Missing value for argument '(\S+?)'", text)
    if missing_value:
        text = f"{missing_value[1]} needs a value"
    text = re.sub(r"^Unrecognized options: (.*)", r"unknown argument \1", text)
    return f"{text or 'the options cannot be read'}; {_see(name)}"


def _see(name: str) -> str:
    return f"r2t2 {name} --help lists the options"
