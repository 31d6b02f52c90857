"""Official files on disk: finding them, and reading JSON whose shape is checked, with errors that say where.

Nothing here knows a particular set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from r2t2_jax.datasets.record import Bad, Record
from r2t2_jax.errors import R2T2Error

Parse = Callable[["Fields"], Record | None]
NAMED = 3  # places named in an error


class MissingFile(R2T2Error):
    """An official file is not where it is expected."""


@dataclass(frozen=True)
class Fields:
    """An object of a file, its values by name, and where it stands; every look-up checks the type."""

    where: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self._value(name, str, "a string")
        if not value.strip():
            raise R2T2Error(f"{self.where}: {name!r} is empty")
        return value

    def integer(self, name: str) -> int:
        """A whole number."""
        return self._value(name, int, "a whole number")

    def texts(self, name: str) -> list[str]:
        """A list of strings, at least one."""
        value = self._value(name, list, "a list of strings")
        if not value or not all(isinstance(item, str) for item in value):
            raise R2T2Error(f"{self.where}: {name!r} must be a list of strings, not {_short(value)}")
        return value

    def object(self, name: str) -> Fields:
        """An object within this one."""
        return Fields(f"{self.where}, {name}", self._value(name, dict, "an object"))

    def _value(self, name: str, kind: type, called: str) -> Any:
        value = self.values.get(name)
        if value is None:
            raise R2T2Error(f"{self.where}: {name!r} is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise R2T2Error(f"{self.where}: {name!r} must be {called}, not {_short(value)}")
        return value


def find(folder: Path, *candidates: str, what: str = "file") -> Path:
    """The first of the candidates that exists below the folder; patterns such as `*.tsv` must match one file.

    Raises:
        MissingFile: none exists.
        R2T2Error: there is no such folder, or a pattern matches several files.
    """
    if not folder.is_dir():
        raise R2T2Error(f"{folder} is no folder; name the one that holds {candidates[0]}")
    for candidate in candidates:
        matches = sorted(folder.glob(candidate))
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches[:4])
            raise R2T2Error(f"{folder} holds several files {candidate} ({names}); leave only the one to be read")
        if matches:
            return matches[0]
    others = f" (or {', '.join(candidates[1:NAMED])})" if candidates[1:] else ""
    raise MissingFile(f"expected the {what} {folder / candidates[0]}{others}, which is not there")


def find_files(folder: Path, *candidates: str) -> Path:
    """The first of the candidates that exists, else the first: for images, whose absence is told when they are read."""
    paths = [folder / candidate for candidate in candidates]
    return next((path for path in paths if path.exists()), paths[0])


def read_archive_member(folder: Path, name: str) -> Path:
    """The folder of that name inside, where an archive was unpacked with its top folder, or the folder itself."""
    return folder / name if (folder / name).is_dir() else folder


def read_text(path: Path) -> str:
    """The whole file as UTF-8.

    Raises:
        R2T2Error: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise R2T2Error(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise R2T2Error(f"cannot read {path}: {error.strerror}") from error


def read_json(path: Path, kind: type) -> Any:
    """The content of a JSON file whose outermost value is a `dict` or a `list`.

    Raises:
        R2T2Error: it cannot be read, is cut off or otherwise no JSON, or is another kind of file.
    """
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise R2T2Error(f"{path}: not JSON, perhaps cut off: {error}") from error
    if not isinstance(content, kind):
        called = "an object" if kind is dict else "a list"
        raise R2T2Error(f"{path}: expected {called}, found {_short(content)}: is this the official file?")
    return content


def read_member(path: Path, name: str, kind: type) -> Any:
    """A list or object by name in a JSON file that is an object.

    Raises:
        R2T2Error: as `read_json`, or there is no such member.
    """
    return member(path, read_json(path, dict), name, kind)


def member(path: Path, content: Mapping[str, Any], name: str, kind: type) -> Any:
    """A list or object by name in what was read of a file.

    Raises:
        R2T2Error: there is no such member.
    """
    if not isinstance(content.get(name), kind):
        found = ", ".join(list(content)[:5]) or "nothing"
        raise R2T2Error(f"{path}: expected a member {name!r}, found {found}: is this the official file?")
    return content[name]


def check_version(path: Path, found: Any, wanted: str, name: str) -> None:
    """Refuse a file that says it is of another version; one that says nothing is taken.

    Raises:
        R2T2Error: it is.
    """
    if found is not None and str(found) != wanted:
        raise R2T2Error(f"{path}: this is version {found} of {name}; version {wanted} is needed")


def by_key(rows: Iterable[Any], name: str) -> dict[str | int, Any]:
    """Objects by the text or number that each has under a name; what has none is left out."""
    keyed = ((row.get(name), row) for row in rows if isinstance(row, Mapping))
    return {key: row for key, row in keyed if isinstance(key, str | int)}


def parse_rows(path: Path, items: Iterable[tuple[Any, Any]], parse: Parse) -> Iterator[Record | Bad]:
    """Parse every item; one that cannot be used is yielded as `Bad`, one that does not belong to the set (`None`) not.

    Args:
        path: their file, for errors.
        items: what tells an item apart, such as its id or number, and the item.
        parse: an item's fields to a record.
    """
    for key, item in items:
        where = f"{path}, {key}"
        try:
            if not isinstance(item, Mapping):
                raise R2T2Error(f"{where}: expected an object, found {_short(item)}")
            record = parse(Fields(where, item))
        except R2T2Error as error:
            yield Bad(str(error))
            continue
        if record is not None:
            yield record


def numbered(items: Iterable[Any], called: str = "record") -> Iterator[tuple[str, Any]]:
    """Items told apart by their number, from 1."""
    return ((f"{called} {number}", item) for number, item in enumerate(items, start=1))


def option_letter(index: int, options: list[str] | tuple[str, ...], where: str) -> str:
    """The letter of an option by its number, from 0.

    Raises:
        R2T2Error: there is no such option.
    """
    if not 0 <= index < len(options):
        raise R2T2Error(f"{where}: the answer is option {index}, but there are {len(options)} options")
    return ascii_uppercase[index]


def list_choices(answer: str, options: list[str] | tuple[str, ...], where: str) -> str:
    """The letter, checked to be that of an option; upper case.

    Raises:
        R2T2Error: it is not.
    """
    found = answer.strip().strip("().").upper()
    if len(found) != 1 or found not in ascii_uppercase[: len(options)]:
        raise R2T2Error(f"{where}: answer {answer!r} is not the letter of one of {len(options)} options")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
