"""What commands print for programs and for people: JSON, notes on standard error, and how much of them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")  # accepted by every command, at any place
TEXT_OPTIONS = ("--question", "--routing")  # whose value may be one of these words


def print_json(content: Any) -> None:
    """Print a value as JSON: dataclasses as objects, arrays as lists, and numbers that are not finite as null."""
    print(json.dumps(_plain(content), indent=1, ensure_ascii=False))


def print_result(as_json: bool, content: Any, *lines: str) -> None:
    """Print a command's result: the content as one JSON document, or the lines for people."""
    if as_json:
        print_json(content)
    else:
        print(*lines, sep="\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # arrays and numbers of NumPy and JAX
        return _plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def take_verbosity(words: Sequence[str]) -> tuple[list[str], bool, bool]:
    """The words of a command line without `-q` and `-v`, and whether each was there."""
    rest: list[str] = []
    quiet = verbose = False
    for number, word in enumerate(words):
        is_value = number > 0 and words[number - 1] in TEXT_OPTIONS
        if word in QUIET and not is_value:
            quiet = True
        elif word in VERBOSE and not is_value:
            verbose = True
        else:
            rest.append(word)
    return rest, quiet, verbose


def version_lines() -> str:
    """The versions of this package and of JAX, and the devices."""
    from importlib.metadata import version

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    lines = [f"r2t2 {version('r2t2-jax')}", f"jax {version('jax')}, jaxlib {version('jaxlib')}"]
    try:
        from r2t2_jax.runs.fingerprint import local_devices

        return "\n".join([*lines, f"devices: {local_devices()}"])
    except Exception as error:  # a driver that is missing or busy raises many types
        reason = (str(error).splitlines() or ["no message"])[0]
        return "\n".join([*lines, f"devices: none ({reason})"])
