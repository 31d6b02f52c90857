"""Finds official files and reads JSON with checked types; errors name the file and the position."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from r2t2_jax.contract import options_by_letter
from r2t2_jax.datasets.record import InvalidRecord, Record, Records
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import read_text as read_text
from r2t2_jax.runtime.typed_json import open_json

Parse = Callable[["Fields"], Record | None]
MAX_LISTED = 3  # paths listed in an error


class MissingFile(R2T2Error):
    """An official file does not exist."""


@dataclass(frozen=True)
class Fields:
    """A JSON object with its position in the file; each method returns one value and checks its type."""

    where: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """The non-empty string at `name`."""
        value = self._value(name, str, "a string")
        if not value.strip():
            raise R2T2Error(f"{self.where}: {name!r} is empty")
        return value

    def integer(self, name: str) -> int:
        """The integer at `name`."""
        return self._value(name, int, "an integer")

    def texts(self, name: str) -> list[str]:
        """The list of strings at `name`, with at least one item."""
        value = self._value(name, list, "a list of strings")
        if not value or not all(isinstance(item, str) for item in value):
            raise R2T2Error(f"{self.where}: {name!r} must be a list of strings, not {_abbreviate(value)}")
        return value

    def object(self, name: str) -> Fields:
        """The nested object at `name`."""
        return Fields(f"{self.where}, {name}", self._value(name, dict, "an object"))

    def _value(self, name: str, kind: type, type_name: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise R2T2Error(f"{self.where}: {name!r} is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise R2T2Error(f"{self.where}: {name!r} must be {type_name}, not {_abbreviate(value)}")
        return value


def find_path(folder: Path, *candidates: str, what: str = "file") -> Path:
    """The first candidate that exists in the folder; a pattern such as `*.tsv` must match exactly one file.

    Files whose names begin with a dot match no pattern.

    Raises:
        MissingFile: no candidate exists.
        R2T2Error: the folder does not exist, or a pattern matches several files.
    """
    if not folder.is_dir():
        raise R2T2Error(f"{folder} is not a folder; name the folder that contains {candidates[0]}")
    for candidate in candidates:
        matches = visible(folder, candidate)
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches[:4])
            raise R2T2Error(f"{folder} contains several files {candidate} ({names}); leave only the one to read")
        if matches:
            return matches[0]
    others = f" (or {', '.join(candidates[1:MAX_LISTED])})" if candidates[1:] else ""
    raise MissingFile(f"expected the {what} {folder / candidates[0]}{others}, which does not exist")


def visible(folder: Path, pattern: str) -> list[Path]:
    """The files that match a pattern, sorted by name, without those whose names begin with a dot.

    Archives made on macOS contain files such as `._1.txt`, which are not data.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def first_existing(folder: Path, *candidates: str) -> Path:
    """The first candidate that exists, otherwise the first; a missing image is reported when it is read."""
    paths = [folder / candidate for candidate in candidates]
    return next((path for path in paths if path.exists()), paths[0])


def unpacked_root(folder: Path, name: str) -> Path:
    """`folder/name` if it exists, because the archive was unpacked with its top folder; otherwise `folder`."""
    return folder / name if (folder / name).is_dir() else folder


def read_text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file. Only newlines end a line, not U+2028 or a form feed.

    Raises:
        R2T2Error: the file cannot be read.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file whose outermost value has the type `kind`, `dict` or `list`.

    Raises:
        R2T2Error: the file cannot be read, is not valid JSON, or has another outermost type.
    """
    content = open_json(path).content
    if not isinstance(content, kind):
        type_name = "an object" if kind is dict else "a list"
        raise R2T2Error(f"{path}: expected {type_name}, found {_abbreviate(content)}: is this the official file?")
    return content


def read_member(path: Path, name: str, kind: type) -> Any:
    """The list or object at `name` in a JSON file.

    Raises:
        R2T2Error: as `read_json`, or there is no such member.
    """
    return get_member(path, read_json(path, dict), name, kind)


def get_member(path: Path, content: Mapping[str, Any], name: str, kind: type) -> Any:
    """The list or object at `name` in the content of a JSON file.

    Raises:
        R2T2Error: there is no such member.
    """
    if not isinstance(content.get(name), kind):
        members = ", ".join(list(content)[:5]) or "nothing"
        raise R2T2Error(f"{path}: expected a member {name!r}, found {members}: is this the official file?")
    return content[name]


def check_version(path: Path, version: Any, required: str, name: str) -> None:
    """Check the version that a file states; a file without a version is accepted.

    Raises:
        R2T2Error: the version is not the required one.
    """
    if version is not None and str(version) != required:
        raise R2T2Error(f"{path}: this is version {version} of {name}; version {required} is required")


def index_by(rows: Iterable[Any], name: str) -> dict[str | int, Any]:
    """Objects by their string or integer at `name`; objects without one are left out."""
    keyed = ((row.get(name), row) for row in rows if isinstance(row, Mapping))
    return {key: row for key, row in keyed if isinstance(key, str | int)}


def parse_rows(path: Path, items: Iterable[tuple[Any, Any]], parse: Parse) -> Records:
    """Parse every item to a `Record` or an `InvalidRecord`; an item for which `parse` returns `None` is skipped.

    Args:
        path: the file of the items, for errors.
        items: pairs of an item's id or number and the item.
        parse: returns the record of an item's fields, or `None` if the item does not belong to the dataset.
    """
    for key, item in items:
        where = f"{path}, {key}"
        try:
            if not isinstance(item, Mapping):
                raise R2T2Error(f"{where}: expected an object, found {_abbreviate(item)}")
            record = parse(Fields(where, item))
        except R2T2Error as error:
            yield InvalidRecord(str(error))
            continue
        if record is not None:
            yield record


def numbered(items: Iterable[Any], noun: str = "record") -> Iterator[tuple[str, Any]]:
    """Pairs of a label such as `record 1` and the item, counted from 1."""
    return ((f"{noun} {number}", item) for number, item in enumerate(items, start=1))


def option_letter(index: int, options: list[str] | tuple[str, ...], where: str) -> str:
    """The letter of the option at `index`, counted from 0.

    Raises:
        R2T2Error: there is no such option, or there are more options than letters.
    """
    if not 0 <= index < len(options):
        raise R2T2Error(f"{where}: the answer is option {index}, but there are {len(options)} options")
    if len(options) > len(ascii_uppercase):
        raise R2T2Error(f"{where}: a question of {len(options)} options; letters name {len(ascii_uppercase)} at most")
    return ascii_uppercase[index]


def check_letter(answer: str, options: list[str] | tuple[str, ...], where: str) -> str:
    """The answer as the upper-case letter of an option; spaces, brackets and full stops around it are removed.

    Raises:
        R2T2Error: the answer is not the letter of an option.
    """
    letter = answer.strip().strip("().").upper()
    offered = list(options_by_letter(options)) if len(options) <= len(ascii_uppercase) else []
    if letter not in offered:
        raise R2T2Error(f"{where}: answer {answer!r} is not the letter of one of {len(options)} options")
    return letter


def _abbreviate(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
