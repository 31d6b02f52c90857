"""JSON read with declared types, by msgspec: every problem is one line with the file, the line and the field."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import content_kind, read_text

T = TypeVar("T")
JsonPath = tuple[str | int, ...]  # keys and indices from the outermost value to a field

INTEGERS = range(-(2**63), 2**64)
NOUNS = {
    "int": "a whole number", "float": "a number", "str": "a string", "bool": "true or false", "null": "null",
    "array": "a list", "object": "an object",
}  # fmt: skip
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?Infinity|-?\d[\d.eE+-]*|[A-Za-z]+|[{}\[\],:]')
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_STEP = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]|\[(\.\.\.)\]")


@dataclass(frozen=True)
class Json:
    """A parsed JSON text.

    Args:
        where: the file, or a file with a line, for errors.
        text: the text.
        content: its value: of finite numbers of 64 bits, strings without lone surrogates, and objects without
            repeated keys.
        remedy: what to do about any problem, for errors.
        lines: errors state the line within the text.
    """

    where: str
    text: str
    content: Any
    remedy: str = ""
    lines: bool = True

    def error(self, problem: str, path: JsonPath = ()) -> R2T2Error:
        """The error about the field at `path`, or about its innermost existing parent."""
        lines = dict(_lines_of_fields(self.text)) if self.lines else {}
        while path and path not in lines:
            path = path[:-1]
        line = f":{lines.get(path, 1)}" if self.lines else ""
        return R2T2Error(f"{self.where}{line}: {problem}{'; ' if self.remedy else ''}{self.remedy}")

    def member(self, name: str) -> Any:
        """A field of the outermost object.

        Raises:
            R2T2Error: the content is no object, or lacks the field.
        """
        if name not in self.as_type(dict):
            raise self.error(f"{name!r} is missing")
        return self.content[name]

    def as_type(
        self, kind: type[T], leave_out: Collection[str] = (), required: bool = False, lenient: bool = False
    ) -> T:
        """The content as a value of the type `kind`: a builtin, a container type or a dataclass of such types.

        Args:
            kind: the type. Its dataclasses must have every field of the content; their `__post_init__` checks values.
            leave_out: keys of the outermost object that belong to no field of `kind`.
            required: refuse content that lacks a field, also one with a default value.
            lenient: permit fields that no dataclass declares.

        Raises:
            R2T2Error: a field is missing, unknown or has another type or a bad value.
        """
        content = self.content
        if leave_out and isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in leave_out}
        try:
            value = msgspec.convert(content, type=kind)
        except msgspec.ValidationError as error:
            problem, path = _problem(str(error), content)
            raise self.error(problem, path) from error
        known = content if lenient or kind in (dict, list) else msgspec.to_builtins(value)
        if unknown := _unknown_field(content, known):
            name = field_name(unknown)
            raise self.error(f"unknown field {name!r}; another version of r2t2-jax may have written it", unknown)
        if not dataclasses.is_dataclass(value):
            return value
        complete: Any = dataclasses.replace(value)  # type: ignore[type-var]  # msgspec leaves defaults to the class
        if required and (missing := _unknown_field(dataclasses.asdict(complete), content)):
            raise self.error(f"{field_name(missing)!r} is missing", missing)
        result: T = complete
        return result


def parse_json(text: str, where: str, remedy: str = "", lines: bool = True) -> Json:
    """Parse a JSON text; the arguments are those of `Json`.

    Raises:
        R2T2Error: the text is not JSON or is nested too deeply, a number is not finite or exceeds 64 bits, a key
            occurs twice, or a string holds a lone surrogate.
    """
    try:
        content = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=_integer, parse_float=_finite
        )
        if _LONE_SURROGATE.search(text):
            _check_tokens(Json(where, text, None, remedy, lines))
    except json.JSONDecodeError as error:
        kind = content_kind(text[:512].encode("utf-8", "replace"))
        place = f"line {error.lineno}, column {error.colno}" if lines else f"column {error.colno}"
        problem = f"{where} is {kind}" if kind else f"{where}: not JSON, perhaps cut off: {error.msg} ({place})"
        raise R2T2Error(f"{problem}{'; ' if remedy else ''}{remedy}") from error
    except RecursionError as error:
        raise R2T2Error(f"{where}: brackets are nested too deeply{'; ' if remedy else ''}{remedy}") from error
    except _RefusedValue as error:
        _check_tokens(Json(where, text, None, remedy, lines))
        raise R2T2Error(f"{where}: {error}") from error
    return Json(where, text, content, remedy, lines)


def open_json(path: Path, remedy: str = "") -> Json:
    """Parse a JSON file; raises as `read_text` and `parse_json`."""
    return parse_json(read_text(path), str(path), remedy)


def read_json(path: Path, kind: type[T], remedy: str = "") -> T:
    """The content of a JSON file as a value of the type `kind`; raises as `open_json` and `Json.as_type`."""
    return open_json(path, remedy).as_type(kind)


def field_name(path: JsonPath) -> str:
    """A path as text: `files.a[0]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


class _RefusedValue(ValueError):
    """A value that JSON texts may express but that is not read."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _RefusedValue("a key occurs twice")
    return content


def _refuse(constant: str) -> Any:
    raise _RefusedValue(f"{constant} is not JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or int(text) not in INTEGERS:
        raise _RefusedValue("a whole number exceeds 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _RefusedValue("a number is too large")
    return value


def _tokens(text: str) -> Iterator[tuple[JsonPath, str, int, bool]]:
    """Path, text, line and whether it is a key, of every token of a JSON text that begins a value or is a key."""
    opened: list[list[Any]] = []  # of every open container: "{" or "[", and the present key or index
    line, position = 1, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        line += text.count("\n", position, match.start())
        position = match.start()
        path: JsonPath = tuple(entry[1] for entry in opened)
        if token == "," and opened:
            opened[-1][1] = None if opened[-1][0] == "{" else opened[-1][1] + 1
        elif token in "}]":
            del opened[-1:]
        elif opened and opened[-1][1] is None and token[0] == '"':
            key: str = json.loads(token, strict=False)
            opened[-1][1] = key
            yield (*path[:-1], key), token, line, True
        elif token not in ":,":
            yield path, token, line, False
            if token in "{[":
                opened.append([token, None if token == "{" else 0])


def _lines_of_fields(text: str) -> Iterator[tuple[JsonPath, int]]:
    """The path and the line of every value; of the part that can be followed, if the text is not JSON."""
    return ((path, line) for path, _, line, is_key in _tokens(text) if not is_key)


def _check_tokens(source: Json) -> None:
    """Refuse the first repeated key, lone surrogate, or number that is not finite or exceeds 64 bits."""
    keys: set[JsonPath] = set()
    for path, token, _, is_key in _tokens(source.text):
        name = repr(field_name(path)) if path else "the value"
        if is_key and path in keys:
            raise source.error(f"the key {name} occurs twice", path)
        if is_key:
            keys.add(path)
        if token[0] == '"' and any("\ud800" <= letter <= "\udfff" for letter in json.loads(token, strict=False)):
            shown = ascii(name)[1:-1] if is_key else name
            raise source.error(f"{shown} holds half of a surrogate pair, {token[:40]}, which is not text", path)
        if token in ("NaN", "Infinity", "-Infinity"):
            raise source.error(f"not JSON: {name} is {token}", path)
        if token[0] in "-0123456789":
            try:
                _finite(token) if set(token) & set(".eE") else _integer(token)
            except _RefusedValue:
                shown = token if len(token) <= 24 else f"{token[:20]}... ({len(token)} characters)"
                raise source.error(f"{name} is {shown}, which exceeds 64 bits", path) from None


def _unknown_field(content: Any, known: Any, path: JsonPath = ()) -> JsonPath:
    """The path of the first key that the value of the declared type does not have; empty if there is none."""
    if isinstance(content, dict) and isinstance(known, dict):
        for key, value in content.items():
            if key not in known:
                return (*path, key)
            if unknown := _unknown_field(value, known[key], (*path, key)):
                return unknown
    elif isinstance(content, list | tuple) and isinstance(known, list | tuple):
        for index, (value, other) in enumerate(zip(content, known, strict=False)):
            if unknown := _unknown_field(value, other, (*path, index)):
                return unknown
    return ()


def _problem(message: str, content: Any) -> tuple[str, JsonPath]:
    """The problem and its path, from an error of msgspec, which does not name the keys of mappings."""
    cause, _, place = message.partition(" - at ")
    steps: list[str | int] = [int(index) if index else name or key for name, index, key in _STEP.findall(place)]
    mismatch = re.fullmatch(r"Expected `(.+?)`, got `(.+?)`", cause)
    missing = re.fullmatch(r"Object missing required field `(.+)`", cause)
    path = _path_of(content, steps, mismatch[2] if mismatch else "", missing[1] if missing else "")
    name = repr(field_name(path)) if path else "the content"
    if mismatch:
        expected, actual = (_nouns(kinds) for kinds in mismatch.groups())
        return f"{name} must be {expected}, not {actual}", path
    if missing:
        return f"{field_name((*path, missing[1]))!r} is missing", path
    return (f"{name}: {cause}" if path else cause).replace("`", ""), path


def _nouns(kinds: str) -> str:
    return " or ".join(NOUNS.get(kind, kind) for kind in kinds.split(" | "))


def _path_of(content: Any, steps: list[str | int], actual: str, missing: str) -> JsonPath:
    """The steps with the key of a mapping in place of `...`: the first whose value has the type, or lacks the field."""

    def follow(value: Any, rest: list[str | int]) -> JsonPath | None:
        if not rest:
            return () if _type_name(value) == actual or (missing and missing not in value) else None
        keys = list(value) if rest[0] == "..." else [rest[0]]
        return next(((key, *end) for key in keys if (end := follow(value[key], rest[1:])) is not None), None)

    if not actual and not missing:
        return tuple(steps[: steps.index("...")] if "..." in steps else steps)
    try:
        return follow(content, steps) or ()
    except (KeyError, IndexError, TypeError):
        return ()


def _type_name(value: Any) -> str:
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)
