"""Numbers and names as reports and tables write them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def percent(share: float | None) -> str:
    """`0.4567` as `45.7`; a dash for `None`."""
    return "-" if share is None else f"{100 * share:.1f}"


def true_minus(text: str) -> str:
    """A number with the minus sign of typography instead of a hyphen."""
    return text.replace("-", "−")


def decimal(value: float) -> str:
    """`−0.12`: two digits and a true minus sign."""
    return true_minus(f"{value:.2f}")


def signed(points: float) -> str:
    """`+12.3`, with a true minus sign below zero."""
    return true_minus(f"{points:+.1f}")


def percent_interval(low: float, high: float) -> str:
    """Shares as `51.2–57.4`, in percent."""
    return f"{percent(low)}–{percent(high)}"


def signed_interval(low: float, high: float) -> str:
    """Points as `+9.8 to +14.8`."""
    return f"{signed(low)} to {signed(high)}"


def duration(seconds: float) -> str:
    """`11.6 ms` or `2.35 s`."""
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def plural(number: int, noun: str) -> str:
    """`1 answer`, `1,200 answers`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def join_names(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shorten(text: str, length: int) -> str:
    """At most `length` characters, with an ellipsis if the text is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def distinct_names(names: Sequence[str], short: Callable[[str], str], separator: str) -> dict[str, str]:
    """The short form of each name; a number is appended where two would be equal, also without regard to case."""
    distinct: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        plain = short(name)
        candidates = (plain, *(f"{plain}{separator}{number}" for number in range(2, len(names) + 2)))
        distinct[name] = next(candidate for candidate in candidates if candidate.casefold() not in used)
        used.add(distinct[name].casefold())
    return distinct


def settings_line(settings: Mapping[str, Any]) -> str:
    """`seed 0, samples 1000`: the scalar settings of a run in one line."""
    shown = {
        key: value
        for key, value in settings.items()
        if isinstance(value, str | int | float) and value is not False and value != "" and key != "out"
    }
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())


def plain_console(**options: Any) -> Console:
    """A console of rich that prints texts as they are: `[red]` and `:smile:` in the data are no markup.

    With `NO_COLOR` in the environment it writes no escape sequence. In a notebook it prints as anywhere else.
    """
    from rich.console import Console

    if os.environ.get("NO_COLOR"):
        options.setdefault("color_system", None)
    return Console(markup=False, emoji=False, force_jupyter=False, **options)
