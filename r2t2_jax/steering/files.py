"""Steering files: rules in JSON, read with one-line errors, and bound to the names of a model (docs/routes.md).

{"steering": 1, "about": "image tokens leave experts 2 and 5 alone",
"rules": [{"layers": "6-42", "tokens": "image", "mask": [2, 5]},
{"layers": "last5", "boost": {"expert 7": 1.0}, "lambda": 0.5}]}
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import atomic_write
from r2t2_jax.runtime.typed_files import decode_text, read_bytes
from r2t2_jax.runtime.typed_json import Json, JsonPath, field_name, parse_json

FORMAT = 1
ACTIONS = ("select", "mask", "boost", "weigh")
TOKENS = {  # the classes of tokens (`routing.TOKEN_CLASSES`) that a rule's `tokens` names
    "all": ("text", "image", "last", "answer"),
    "prompt": ("text", "image", "last"),
    "text": ("text", "last"),
    "image": ("image",),
    "last": ("last",),
    "answer": ("answer",),
}
UNITS = ("logit", "std")
LARGEST = 1e6  # of the numbers of rules, and of their boosts, which stay far below the shift of a masked expert
_RULE_FIELDS = ("layers", "tokens", *ACTIONS, "lambda", "unit", "about")
_RANGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")

Name = int | str  # of a layer or an expert: its position, counted from 0, or its name


@dataclass(frozen=True)
class Rule:
    """One rule of a steering file.

    Args:
        layers: `all`, `last5`, `6-42`, `43,45`, the name of a layer, or positions and names.
        tokens: a key of `TOKENS`.
        action: one of `ACTIONS`.
        experts: names or positions, each with its score (`boost`), its weight (`weigh`) or 0.
        strength: lambda, by which scores are multiplied.
        unit: of boosts: `logit`, or `std` for the standard deviation of a token's logits over the experts.
    """

    layers: str | tuple[Name, ...]
    tokens: str
    action: str
    experts: tuple[tuple[Name, float], ...]
    strength: float = 1.0
    unit: str = "logit"


@dataclass(frozen=True)
class Steering:
    """The content of a steering file: its name, the SHA-256 of its bytes, and its rules."""

    origin: str
    digest: str
    rules: tuple[Rule, ...]

    def error(self, rule: int, field: str, problem: str) -> R2T2Error:
        """The error about a field of a rule."""
        return R2T2Error(f"{self.origin}: rules[{rule}].{field}: {problem}")


def read_steering(path: Path) -> Steering:
    """Read a steering file.

    Raises:
        R2T2Error: it cannot be read, a field is missing, unknown or has a wrong value; the message names the field.
    """
    content = read_bytes(path)  # once: a pipe has its content only once
    return _steering(parse_json(decode_text(content, str(path)), str(path)), hashlib.sha256(content).hexdigest())


def parse_steering(content: Mapping[str, Any], origin: str = "steering") -> Steering:
    """The steering of a mapping with the content of a steering file; raises as `read_steering`."""
    try:
        text = json.dumps(content, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise R2T2Error(f"{origin} is not JSON: {error}") from error
    return _steering(parse_json(text, origin, lines=False), hashlib.sha256(text.encode()).hexdigest())


def opened_steering(steering: Steering | Mapping[str, Any] | str | Path) -> Steering:
    """A steering, or the one in a file or a mapping with its content; raises as `read_steering`."""
    if isinstance(steering, Steering):
        return steering
    return parse_steering(steering) if isinstance(steering, Mapping) else read_steering(Path(steering))


def _steering(source: Json, digest: str) -> Steering:
    version = source.member("steering")
    if version is True or version != FORMAT:
        raise source.error(f"'steering' is {version!r}; this version reads format {FORMAT}", ("steering",))
    for name in source.content:
        if name not in ("steering", "about", "rules"):
            raise source.error(f"unknown field {name!r}; a steering file has steering, about and rules", (name,))
    if not isinstance(source.content.get("about", ""), str):
        raise source.error("'about' must be a text", ("about",))
    rules = source.member("rules")
    if not isinstance(rules, list) or not rules:
        raise source.error("'rules' must be a list of at least one rule", ("rules",))
    return Steering(source.where, digest, tuple(_rule(source, number, rule) for number, rule in enumerate(rules)))


def _rule(source: Json, number: int, content: Any) -> Rule:
    path: JsonPath = ("rules", number)
    if not isinstance(content, dict):
        raise source.error(f"'{field_name(path)}' must be an object", path)
    for name in content:
        if name not in _RULE_FIELDS:
            known = ", ".join(_RULE_FIELDS)
            raise source.error(f"unknown field '{field_name((*path, name))}'; a rule has {known}", (*path, name))
    actions = [name for name in ACTIONS if name in content]
    if len(actions) != 1:
        held = " and ".join(actions) or "none"
        raise source.error(f"'{field_name(path)}' needs one of {', '.join(ACTIONS)}, and has {held}", path)
    (action,) = actions
    for name in ("lambda", "unit"):
        if name in content and action != "boost":
            raise source.error(f"'{field_name((*path, name))}' belongs to boost, not to {action}", (*path, name))
    if not isinstance(content.get("about", ""), str):
        raise source.error(f"'{field_name((*path, 'about'))}' must be a text", (*path, "about"))
    return Rule(
        _layers(source, (*path, "layers"), content.get("layers", "all")),
        _choice(source, (*path, "tokens"), content.get("tokens", "all"), tuple(TOKENS)),
        action,
        _experts(source, (*path, action), content[action], action),
        _number(source, (*path, "lambda"), content.get("lambda", 1.0)),
        _choice(source, (*path, "unit"), content.get("unit", "logit"), UNITS),
    )


def _choice(source: Json, path: JsonPath, value: Any, options: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in options:
        raise source.error(f"'{field_name(path)}' is {value!r}; choose {', '.join(options)}", path)
    return value


def _number(source: Json, path: JsonPath, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise source.error(f"'{field_name(path)}' must be a number, not {value!r}", path)
    if abs(value) > LARGEST:
        raise source.error(f"'{field_name(path)}' is {value:g}; numbers of rules are at most {LARGEST:g} in size", path)
    return float(value)


def _name(source: Json, path: JsonPath, value: Any) -> Name:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise source.error(f"'{field_name(path)}' must be a position or a name, not {value!r}", path)
    if isinstance(value, int) and value < 0:
        raise source.error(f"'{field_name(path)}' is {value}; positions are counted from 0", path)
    return value


def _layers(source: Json, path: JsonPath, value: Any) -> str | tuple[Name, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return (_name(source, path, value),)
    if isinstance(value, list) and value:
        return tuple(_name(source, (*path, i), each) for i, each in enumerate(value))
    raise source.error(f"'{field_name(path)}' must be all, last5, 6-42, 43,45 or a list of layers, not {value!r}", path)


def _experts(source: Json, path: JsonPath, value: Any, action: str) -> tuple[tuple[Name, float], ...]:
    if isinstance(value, list) and value and action != "weigh":
        experts = tuple((_name(source, (*path, i), each), 1.0) for i, each in enumerate(value))
    elif isinstance(value, dict) and value and action in ("boost", "weigh"):
        experts = tuple((name, _number(source, (*path, name), number)) for name, number in value.items())
    else:
        objects = {"boost": "an object of scores, or a list of experts", "weigh": "an object of weights by expert"}
        wanted = objects.get(action, "a list of experts")
        raise source.error(f"'{field_name(path)}' must be {wanted} with at least one, not {value!r:.60}", path)
    if action == "weigh":
        for name, number in experts:
            if number < 0:
                raise source.error(f"'{field_name((*path, str(name)))}' is {number:g}; weights are not negative", path)
        if not any(number for _, number in experts):
            raise source.error(f"'{field_name(path)}' weighs every expert with zero", path)
    return experts


def layer_positions(layers: str | Sequence[Name], names: Sequence[str]) -> tuple[int, ...]:
    """The positions of layers, ascending.

    Args:
        layers: as `Rule.layers`; a text that is the name of a layer stands for it.
        names: of all layers with a gate.

    Raises:
        R2T2Error: a layer does not exist, or the text is none of the forms.
    """
    if not isinstance(layers, str):
        return tuple(sorted({position(each, names, "layer") for each in layers}))
    if layers in names:
        return (names.index(layers),)
    count = len(names)
    if layers == "all":
        return tuple(range(count))
    if match := re.fullmatch(r"last([0-9]{1,9})", layers):
        if not 1 <= int(match[1]) <= count:
            raise R2T2Error(f"{layers}: the model has {count} layers")
        return tuple(range(count - int(match[1]), count))
    if not _RANGES.fullmatch(layers):
        raise R2T2Error(f"{layers!r} is not all, last5, 6-42, 43,45 or the name of a layer such as {names[0]!r}")
    chosen: set[int] = set()
    for part in layers.split(","):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span or span[-1] >= count:
            raise R2T2Error(f"{part}: the model has the layers 0 to {count - 1}")
        chosen |= set(span)
    return tuple(sorted(chosen))


def position(name: Name, names: Sequence[str], what: str) -> int:
    """The position of a layer or an expert, given by its name, or by its position as a number or as digits.

    Raises:
        R2T2Error: there is none.
    """
    if isinstance(name, str) and name in names:
        return names.index(name)
    if isinstance(name, str) and not (name.isdecimal() and name.isascii()):
        shown = ", ".join(names[:4]) + (f" ... {names[-1]}" if len(names) > 4 else "")
        raise R2T2Error(f"there is no {what} {name!r}; the {what}s are {shown}")
    if len(str(name)) > 9 or int(name) >= len(names):
        raise R2T2Error(f"there is no {what} {str(name)[:20]}; the model has the {what}s 0 to {len(names) - 1}")
    return int(name)


def write_steering(path: Path, rules: Sequence[Mapping[str, Any]], about: str) -> Steering:
    """Write a steering file, one line per rule, and return its content.

    Raises:
        R2T2Error: a rule is wrong, or the file cannot be written.
    """
    parse_steering({"steering": FORMAT, "about": about, "rules": list(rules)}, str(path))
    lines = ",\n".join(f"  {json.dumps(rule)}" for rule in rules)
    text = f'{{\n "steering": {FORMAT},\n "about": {json.dumps(about)},\n "rules": [\n{lines}\n ]\n}}\n'
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))
    return read_steering(path)
