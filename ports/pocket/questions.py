"""Questions about pocket scenes: eight families, eight phrasings per form, one referent, answers of one or two words.

Most questions need two experts: for the queried attribute and for the attribute that names the object. Phrasings are
split by stage: the gate and the references never see those of the test set; the language model has seen all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ports.pocket.scenes import VALUES, Scene, Thing

FAMILIES = ("color", "shape", "texture", "glyph", "count", "existence", "spatial", "size")
PHRASINGS = {
    "train": range(8),
    "gate": (0, 1),
    "reference": (2, 3),
    "validation": (4, 5),
    "test": (6, 7),
    "scene": (6, 7),
}

ASK = {
    "color": (
        "what color is {x} ?",
        "which color does {x} have ?",
        "tell me the color of {x}",
        "what is the color of {x} ?",
        "name the color of {x}",
        "{x} is painted in which color ?",
        "how is {x} colored ?",
        "in what color was {x} drawn ?",
    ),
    "shape": (
        "what shape is {x} ?",
        "which shape does {x} have ?",
        "tell me the shape of {x}",
        "what is the shape of {x} ?",
        "name the shape of {x}",
        "{x} is drawn in which shape ?",
        "what form does {x} take ?",
        "what kind of figure is {x} ?",
    ),
    "texture": (
        "what texture is {x} ?",
        "which texture does {x} have ?",
        "tell me the texture of {x}",
        "what is the texture of {x} ?",
        "name the texture of {x}",
        "{x} is covered in which texture ?",
        "how is the surface of {x} filled ?",
        "what pattern is on {x} ?",
    ),
    "glyph": (
        "what letter is on {x} ?",
        "which letter does {x} carry ?",
        "tell me the letter on {x}",
        "what is the letter on {x} ?",
        "read the letter on {x}",
        "{x} is marked with which letter ?",
        "what is printed on {x} ?",
        "what does the label of {x} say ?",
    ),
    "count": (
        "how many {xs} are there ?",
        "what is the number of {xs} ?",
        "count the {xs}",
        "how many {xs} are in the image ?",
        "give the number of {xs}",
        "how many {xs} do you see ?",
        "the {xs} number how many ?",
        "what do the {xs} add up to ?",
    ),
    "existence": (
        "is there a {xy} ?",
        "does the image contain a {xy} ?",
        "do you see a {xy} ?",
        "is a {xy} present ?",
        "can a {xy} be found ?",
        "is there a {xy} in the image ?",
        "does a {xy} appear ?",
        "would one find a {xy} here ?",
    ),
    "relation": (
        "where is {x} seen from {y} ?",
        "on which side of {y} is {x} ?",
        "in which direction from {y} lies {x} ?",
        "{x} is where relative to {y} ?",
        "seen from {y} , where is {x} ?",
        "which way is {x} from {y} ?",
        "starting at {y} , which way to {x} ?",
        "how does {x} lie with respect to {y} ?",
    ),
    "location": (
        "where is {x} ?",
        "in which corner is {x} ?",
        "tell me the place of {x}",
        "in which part of the image is {x} ?",
        "name the place of {x}",
        "{x} is in which corner ?",
        "which quarter of the image holds {x} ?",
        "where in the image does {x} sit ?",
    ),
    "size": (
        "is {x} larger than {y} ?",
        "is {x} bigger than {y} ?",
        "compared to {y} , is {x} larger ?",
        "tell me if {x} is larger than {y}",
        "does {x} have more size than {y} ?",
        "would you say {x} is bigger than {y} ?",
        "is {x} the larger one next to {y} ?",
        "does {x} exceed {y} in size ?",
    ),
    "absence": (  # a few training questions only: easy-VQA asks these
        "is there not a {xy} ?",
        "does the image not contain a {xy} ?",
        "is no {xy} present ?",
        "is there no {xy} in the image ?",
    ),
}
FORMS = {family: (family,) for family in FAMILIES} | {"spatial": ("relation", "location")}
NAMERS = ("color", "shape", "texture", "glyph")  # attributes that can name an object
NUMBERS = ("0", "1", "2", "3", "4", "5", "6")
DIRECTIONS = ("left", "right", "above", "below")
MAX_QUESTION_WORDS = 15
_COUNT_SHARE = (0.12, 0.36, 0.76)  # cumulative shares of 0, 1 and 2; few scenes allow a 2 or a 3


@dataclass(frozen=True)
class Question:
    """A question, its answer, its family and form, and the experts it needs.

    `key` is the content of the question without its phrasing: without the image, the distribution of answers given
    `key` is the best prediction. `roles` marks the cells that the question refers to (1: its subject, 2: the object
    that the subject is compared with); only training uses it.
    """

    text: str
    answer: str
    family: str
    experts: tuple[str, ...]
    key: str
    roles: tuple[tuple[int, int], ...] = ()


def _noun(attribute: str, value: int) -> str:
    word = VALUES[attribute][value]
    if attribute == "shape":
        return word
    return f"object marked {word}" if attribute == "glyph" else f"{word} object"


def _plural(attribute: str, value: int) -> str:
    word = VALUES[attribute][value]
    if attribute == "shape":
        return f"{word}s" if word != "cross" else "crosses"
    return f"objects marked {word}" if attribute == "glyph" else f"{word} objects"


def _unique(things: Sequence[Thing], attribute: str) -> list[Thing]:
    values = [getattr(thing, attribute) for thing in things]
    return [thing for thing, value in zip(things, values, strict=True) if values.count(value) == 1]


def _pick(rng: np.random.Generator, options: Sequence) -> Any:
    return options[int(rng.integers(len(options)))] if options else None


class _Writer:
    """Writes one question about a scene, or returns `None` if the scene does not allow the form."""

    def __init__(self, rng: np.random.Generator, scene: Scene, phrasings: Sequence[int]):
        self.rng, self.things, self.phrasings = rng, scene.things, phrasings

    def write(self, form: str) -> Question | None:
        if form in VALUES and form != "size":
            return self._ask(form)
        return getattr(self, f"_{form}")()

    def _phrase(self, form: str, **slots: str) -> str:
        return ASK[form][int(_pick(self.rng, self.phrasings))].format(**slots)

    def _namer(self, *excluded: str) -> str:
        return _pick(self.rng, [name for name in NAMERS if name not in excluded])

    def _ask(self, attribute: str) -> Question | None:
        namer = self._namer(attribute)
        thing = _pick(self.rng, _unique(self.things, namer))
        if thing is None:
            return None
        noun = _noun(namer, getattr(thing, namer))
        answer = VALUES[attribute][getattr(thing, attribute)]
        text = self._phrase(attribute, x=f"the {noun}")
        return Question(text, answer, attribute, (attribute, namer), f"{attribute} of {noun}", ((thing.cell, 1),))

    def _count(self) -> Question | None:
        namer = _pick(self.rng, ("color", "shape", "texture"))
        present = [getattr(thing, namer) for thing in self.things]
        answer = int(np.searchsorted(_COUNT_SHARE, self.rng.random()))
        values = [value for value in range(len(VALUES[namer])) if present.count(value) == answer]
        if not values:
            return None
        value = _pick(self.rng, values)
        plural = _plural(namer, value)
        roles = tuple((thing.cell, 1) for thing in self.things if getattr(thing, namer) == value)
        return Question(self._phrase("count", xs=plural), NUMBERS[answer], "count", (namer,), f"count {plural}", roles)

    def _existence(self, form: str = "existence") -> Question | None:
        first, second = ("color", "shape") if self.rng.random() < 0.4 else self.rng.permutation(NAMERS)[:2].tolist()
        if second == "shape" or first == "glyph":  # reads as "striped circle", "red object marked k"
            first, second = second, first
        thing = _pick(self.rng, self.things)
        pair = [getattr(thing, first), getattr(thing, second)]
        exists = bool(self.rng.random() < 0.43)  # some scenes allow no "no"; this balances the answers
        if not exists:  # replace one value by one of another object, so that a single attribute is never sufficient
            side = int(self.rng.integers(2))
            name = (first, second)[side]
            others = [getattr(other, name) for other in self.things if getattr(other, name) != pair[side]]
            if not others:
                return None
            pair[side] = _pick(self.rng, others)
            if any([getattr(other, first), getattr(other, second)] == pair for other in self.things):
                return None
        words = {first: VALUES[first][pair[0]], second: VALUES[second][pair[1]]}
        head = words.get("shape", "object")
        front = " ".join(word for name, word in words.items() if name not in ("shape", "glyph"))
        tail = f" marked {words['glyph']}" if "glyph" in words else ""
        noun = f"{front} {head}{tail}".strip()
        answer = "yes" if exists == (form == "existence") else "no"
        phrasings = self.phrasings if form == "existence" else range(4)
        text = ASK[form][int(_pick(self.rng, phrasings))].format(xy=noun)
        roles = tuple((t.cell, 1) for t in self.things if [getattr(t, first), getattr(t, second)] == pair)
        return Question(text, answer, "existence", (first, second), f"{form} of {noun}", roles)

    def _absence(self) -> Question | None:
        return self._existence("absence")

    def _two(self, differ: Callable[[Thing, Thing], bool]) -> tuple[str, Thing, Thing, str, str] | None:
        """Two things for which `differ` holds, named by the same attribute."""
        namer = _pick(self.rng, NAMERS)
        named = _unique(self.things, namer)
        pairs = [(a, b) for a in named for b in named if a is not b and differ(a, b)]
        if not pairs:
            return None
        a, b = _pick(self.rng, pairs)
        return namer, a, b, f"the {_noun(namer, getattr(a, namer))}", f"the {_noun(namer, getattr(b, namer))}"

    def _relation(self) -> Question | None:
        pair = self._two(lambda a, b: abs(a.row - b.row) != abs(a.column - b.column))
        if pair is None:
            return None
        namer, a, b, x, y = pair
        if abs(a.column - b.column) > abs(a.row - b.row):
            answer = "left" if a.column < b.column else "right"
        else:
            answer = "above" if a.row < b.row else "below"
        text, roles = self._phrase("relation", x=x, y=y), ((a.cell, 1), (b.cell, 2))
        return Question(text, answer, "spatial", ("position", namer), f"relation {x} {y}", roles)

    def _location(self) -> Question | None:
        namer = _pick(self.rng, NAMERS)
        thing = _pick(self.rng, _unique(self.things, namer))
        if thing is None:
            return None
        noun = _noun(namer, getattr(thing, namer))
        answer = f"{'top' if thing.row < 2 else 'bottom'} {'left' if thing.column < 2 else 'right'}"
        text = self._phrase("location", x=f"the {noun}")
        return Question(text, answer, "spatial", ("position", namer), f"location of {noun}", ((thing.cell, 1),))

    def _size(self) -> Question | None:
        pair = self._two(lambda a, b: a.size != b.size)
        if pair is None:
            return None
        namer, a, b, x, y = pair
        answer = "yes" if a.size > b.size else "no"
        text, roles = self._phrase("size", x=x, y=y), ((a.cell, 1), (b.cell, 2))
        return Question(text, answer, "size", ("size", namer), f"size {x} {y}", roles)


def write_question(
    rng: np.random.Generator, scene: Scene, split: str, families: Sequence[str] = FAMILIES, tries: int = 20
) -> Question | None:
    """A question in the phrasings of `split`, its family drawn uniformly from `families`; `None` if none fits."""
    family = _pick(rng, families)
    writer = _Writer(rng, scene, tuple(PHRASINGS[split]))
    for _ in range(tries):
        form = _pick(rng, FORMS[family])
        if form == "existence" and split == "train" and rng.random() < 0.15:
            form = "absence"
        question = writer.write(form)
        if question is not None:
            return question
    return None


def questions_on_any_scene() -> tuple[str, ...]:
    """Ten questions that are valid for every scene: six counts and four on existence, phrased as in training."""
    counted = [(name, value) for name in ("color", "shape", "texture") for value in (0, 1)]
    counts = [ASK["count"][i].format(xs=_plural(*what)) for i, what in enumerate(counted)]
    pairs = [f"{VALUES['color'][i]} {VALUES['shape'][i]}" for i in range(4)]
    return (*counts, *(ASK["existence"][i].format(xy=pair) for i, pair in enumerate(pairs)))


def vocabulary() -> tuple[str, ...]:
    """Every word that occurs in questions and answers, sorted."""
    words = {"yes", "no", "top", "bottom", "object", "objects", "marked", "crosses", "?", ","}
    words |= {*NUMBERS, *DIRECTIONS}
    for name, values in VALUES.items():
        words |= set(values)
        if name == "shape":
            words |= {_plural("shape", value) for value in range(len(values))}
    for templates in ASK.values():
        for template in templates:
            words |= {word for word in template.split() if "{" not in word}
    return tuple(sorted(words))
