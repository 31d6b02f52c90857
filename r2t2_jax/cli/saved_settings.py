"""`--config FILE`: settings of an earlier run, or written by hand, as a user would have typed them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error

FLAG = "--config"


def saved_arguments(name: str, command: type, options: Sequence[str]) -> list[str]:
    """The options with those of the file in front, so that what was typed wins.

    Args:
        name: of the command.
        command: its dataclass.
        options: as typed, perhaps with `--config FILE` among them.

    Raises:
        R2T2Error: the file cannot be read, was left by another command, or holds a setting that this one lacks.
    """
    path, rest = _take(options)
    if path is None:
        return list(options)
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read {FLAG} {path}: {error}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("settings"), dict):
        raise R2T2Error(f'{path} has no settings; give a run.json, or {{"settings": {{...}}}} of your own')
    if saved.get("command", name) != name:
        raise R2T2Error(f"{path} was left by `r2t2 {saved['command']}`, this is `r2t2 {name}`")
    known = {field.name for field in dataclasses.fields(command)}
    unknown = sorted(set(saved["settings"]) - known)
    if unknown:
        raise R2T2Error(f"{path} sets {', '.join(unknown)}; `r2t2 {name}` knows {', '.join(sorted(known))}")
    return [word for field, value in saved["settings"].items() for word in _as_typed(field, value)] + rest


def _take(options: Sequence[str]) -> tuple[str | None, list[str]]:
    rest, path = [], None
    words = iter(options)
    for word in words:
        if word == FLAG:
            path = next(words, None)
            if path is None:
                raise R2T2Error(f"{FLAG} needs a file: the run.json of an earlier run")
        elif word.startswith(f"{FLAG}="):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    return path, rest


def _as_typed(field: str, value: Any) -> list[str]:
    flag = field.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]
