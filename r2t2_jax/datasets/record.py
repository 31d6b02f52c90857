"""What every reader yields, and what the project knows of a set of questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

STYLES = ("letter", "word", "plain")


@dataclass(frozen=True)
class Record:
    """One question of an official file, in the one schema of all sets.

    `id` is the official one. `image` is a file, or its bytes where the official file holds them. `options` are those
    that a port lists below the question; a question that lists its own has none. With style `letter` the answers are
    letters. Answers are in order of preference, repeats included where scoring counts them. `where` names file and
    place.
    """

    id: str
    image: Path | bytes
    question: str
    answers: tuple[str, ...]
    where: str
    options: tuple[str, ...] = ()
    style: str = "word"
    category: str = ""
    split: str = ""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be used; `cause` says where and why."""

    cause: str


Read = Callable[[Path, str], Iterator[Record | Bad]]


@dataclass(frozen=True)
class Source:
    """A set of questions and how it is read.

    `read(folder, split)` yields the records of a split of the official files in `folder`; it raises `R2T2Error` where a
    file is missing or wrong as a whole, and yields `Bad` for a single record. `splits` are those whose answers are
    public, the default first; empty where the files themselves tell. `role` is the paper's: reference, evaluation or,
    for ours, other; `paper_size` is how many questions the paper took. `group` tells by their ids which questions a
    subset must not tear apart.
    """

    name: str
    title: str
    read: Read
    splits: tuple[str, ...]
    files: str
    metric: str
    licence: str
    home: str
    role: str = "other"
    paper_size: int | None = None
    set_score: str = "accuracy"
    group: Callable[[str], str] = str
