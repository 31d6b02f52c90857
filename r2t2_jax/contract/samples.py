"""Samples: one question, about one image or none, as every dataset yields it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn of a conversation: its role (`system`, `user` or `assistant`), and its texts and images in order."""

    role: str
    parts: tuple[str | np.ndarray, ...]


@dataclass(frozen=True)
class Sample:
    """One question about one image, or about none, as every dataset yields it.

    `image` is uint8 [height, width, 3], or `None` for a question of text only. `answers` lists every accepted ground
    truth, the most common first. The port turns `style` (`letter`, `word`, `plain`) into a prompt; an empty text in
    `options` is a letter that is not offered. `experts` are the names of the experts that a person would choose for the
    question, if known; only `task_routing` reads them. `dataset` is the name of the dataset, by which a port chooses
    the published prompt of a benchmark. `context` are lines that this prompt has below the question, such as OCR
    tokens; embedders do not read them. `original` is the image of which `image` is an augmented copy; a port reads
    what is stored for an image, such as MoAI's auxiliary records, for the original. `conversation` is the whole of a
    conversation that has earlier turns, instructions or several images, for processors with `reads_conversations`;
    `question` is then the text of its last turn, and `image` its first image.
    """

    id: str
    image: np.ndarray | None
    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    style: str = "plain"
    category: str = ""
    split: str = ""
    experts: tuple[str, ...] = ()
    dataset: str = ""
    context: str = ""
    original: np.ndarray | None = None
    conversation: tuple[Turn, ...] = ()

    def pixels(self) -> np.ndarray:
        """The image of a sample that must have one.

        Raises:
            R2T2Error: there is none, or it has no pixels.
        """
        image = self.image
        if image is None:
            raise R2T2Error(f"sample {self.id!r} has no image, and this model needs one: give its image")
        if image.size == 0:
            raise R2T2Error(f"sample {self.id!r}: its image has no pixels (shape {image.shape})")
        return image


def options_by_letter(options: Sequence[str]) -> dict[str, str]:
    """The option texts by their letter, `A` for the first. Empty texts are left out; later options keep their letters.

    Raises:
        R2T2Error: there are more options than letters.
    """
    if len(options) > len(ascii_uppercase):
        raise R2T2Error(f"a question of {len(options)} options; letters name {len(ascii_uppercase)} at most")
    return {letter: text for letter, text in zip(ascii_uppercase, options, strict=False) if text.strip()}
