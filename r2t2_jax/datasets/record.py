"""`Record`, the common schema of all datasets, and `DatasetSpec`, the description of one dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from r2t2_jax.contract import options_by_letter
from r2t2_jax.errors import R2T2Error

STYLES = ("letter", "word", "plain")


@dataclass(frozen=True)
class Record:
    """One question of an official file.

    Args:
        id: the official id.
        image: the image file, or the encoded image where the official file contains it; `None` for text only.
        question: the text.
        answers: accepted answers in order of preference, with repeats where scoring counts them; letters with style
            `letter`.
        where: file and position, for errors.
        options: the options that a port lists below the question; empty where the question text lists them. An empty
            text is a letter without an option.
        style: the form of answer that the prompt requests, one of `STYLES`.
        category: the group under which results are reported.
        split: the split that the question belongs to.
        context: lines of the official prompt below the question, such as OCR tokens.

    Raises:
        R2T2Error: there are more options than letters; names `where`.
    """

    id: str
    image: Path | bytes | None
    question: str
    answers: tuple[str, ...]
    where: str
    options: tuple[str, ...] = ()
    style: str = "word"
    category: str = ""
    split: str = ""
    context: str = ""

    def __post_init__(self) -> None:
        try:
            options_by_letter(self.options)
        except R2T2Error as error:
            raise R2T2Error(f"{self.where}: {error}") from error


@dataclass(frozen=True)
class InvalidRecord:
    """A record that cannot be used; `cause` names the file, the position and the reason."""

    cause: str


Records = Iterator[Record | InvalidRecord]
ReadFunction = Callable[[Path, str], Records]


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset and the function that reads it.

    Args:
        name: the name on the command line.
        title: the name in reports.
        read: `read(folder, split)` yields the records of a split of the official files in `folder`. It raises
            `R2T2Error` if a file is missing or malformed as a whole, and yields `InvalidRecord` for a single record.
        splits: the splits with public answers, the default first; empty if the files themselves name the splits.
        files: the official files, for `r2t2 datasets list --files`.
        metric: name of the metric, a key of `metrics.METRICS`.
        license: the license of questions and images.
        home: home page.
        role: the role in the paper, `reference` or `evaluation`; `other` for datasets that the paper does not use.
        paper_size: number of questions that the paper uses.
        set_score: name of the score of a whole set, a key of `metrics.SET_SCORES`.
        group: maps an id to the name of its group; a subset contains a group completely or not at all.
    """

    name: str
    title: str
    read: ReadFunction
    splits: tuple[str, ...]
    files: str
    metric: str
    license: str
    home: str
    role: str = "other"
    paper_size: int | None = None
    set_score: str = "accuracy"
    group: Callable[[str], str] = str
