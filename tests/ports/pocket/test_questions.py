"""Questions: an independent parser of the English text answers them from the scene, with one referent each."""

import dataclasses
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from ports.pocket import dataset, scenes
from ports.pocket.questions import (
    ASK,
    FAMILIES,
    MAX_QUESTION_WORDS,
    PHRASINGS,
    _noun,
    _plural,
    vocabulary,
    write_question,
)
from ports.pocket.scenes import SPLITS, VALUES, make_scene
from r2t2_jax.errors import R2T2Error

STAGES = ("gate", "reference", "validation", "test")


def questions(split, count=400, families=FAMILIES):
    for number in range(count):
        scene = make_scene(split, 0, number)
        question = write_question(np.random.default_rng((3, number)), scene, split, families)
        if question is not None:
            yield scene, question


def named(scene, noun):
    """The things a noun phrase fits, read word by word."""
    words = noun.split()
    return [
        thing
        for thing in scene.things
        if all(
            word in ("object", "marked") or any(VALUES[name][getattr(thing, name)] == word for name in VALUES)
            for word in words
        )
    ]


def only(scene, noun):
    (thing,) = named(scene, noun)
    return thing


def nouns(text):
    """The noun phrases after each "the" that name an object."""
    values = "|".join(sorted((value for name in VALUES for value in VALUES[name]), key=len, reverse=True))
    pattern = rf"the ((?:object marked \w)|(?:(?:{values}) object)|(?:{'|'.join(VALUES['shape'])}))\b"
    return re.findall(pattern, text)


@pytest.mark.parametrize("family", ["color", "shape", "texture", "glyph"])
def test_attributes(family):
    for scene, question in questions("train", families=(family,)):
        (noun,) = nouns(question.text)
        thing = only(scene, noun)
        assert question.answer == VALUES[family][getattr(thing, family)]
        assert question.experts[0] == family


def test_counts():
    plurals = {_plural(name, value): (name, value) for name in VALUES for value in range(len(VALUES[name]))}
    for scene, question in questions("train", families=("count",)):
        ((name, value),) = {plurals[plural] for plural in plurals if re.search(rf"\b{plural}\b", question.text)}
        assert int(question.answer) == sum(getattr(thing, name) == value for thing in scene.things)


def test_existence():
    for scene, question in questions("train", 1500, families=("existence",)):
        negated = bool(re.search(r"\b(not|no)\b", question.text))
        noun = re.search(r"\b(?:a|no) (.*?)(?: \?| in the image| present| be found| appear| here)", question.text)[1]
        assert (question.answer == "yes") == (bool(named(scene, noun)) != negated), question


def test_relations_and_places():
    for scene, question in questions("train", families=("spatial",)):
        things = [only(scene, noun) for noun in nouns(question.text)]
        if len(things) == 1:
            thing = things[0]
            vertical, horizontal = question.answer.split()
            assert (vertical == "top") == (thing.row < 2)
            assert (horizontal == "left") == (thing.column < 2)
        else:
            subject, other = sorted(things, key=lambda thing: dict(question.roles)[thing.cell])
            along = {
                "left": other.column - subject.column,
                "right": subject.column - other.column,
                "above": other.row - subject.row,
                "below": subject.row - other.row,
            }
            assert along[question.answer] == max(along.values()) > 0


def test_sizes():
    for scene, question in questions("train", families=("size",)):
        subject, other = sorted(
            (only(scene, noun) for noun in nouns(question.text)), key=lambda thing: dict(question.roles)[thing.cell]
        )
        assert (question.answer == "yes") == (subject.size > other.size)


def test_stages_share_no_phrasing():
    used = [set(PHRASINGS[stage]) for stage in STAGES]
    assert sum(map(len, used)) == len(set.union(*used))
    assert all(len(set(templates)) == len(templates) >= 4 for templates in ASK.values())
    assert {len(ASK[form]) for form in ASK if form != "absence"} == {8}


def test_no_answer_dominates_its_family():
    answers = defaultdict(Counter)
    for _, question in questions("test", 3000):
        answers[question.family][question.answer] += 1
    assert set(answers) == set(FAMILIES)
    for family, counted in answers.items():
        assert counted.most_common(1)[0][1] / counted.total() < 0.6, (family, counted)


@pytest.mark.parametrize("split", SPLITS)
def test_questions_use_known_words_and_are_short(split):
    known = set(vocabulary())
    for _, question in questions(split):
        words = question.text.split()
        assert set(words) <= known
        assert set(question.answer.split()) <= known
        assert len(words) <= MAX_QUESTION_WORDS
        assert len(question.answer.split()) <= 2


def test_nouns_read_as_english():
    assert _noun("glyph", 0) == "object marked a"
    assert _plural("shape", 4) == "crosses"


def test_images_are_rendered_when_they_are_read(monkeypatch):
    drawn = []

    def render(scene):
        drawn.append(scene)
        return scenes.render(scene)

    monkeypatch.setattr(dataset, "render", render)
    first, second = dataset.load("test", 2, 0)
    assert drawn == []
    assert first.image is first.image
    assert drawn == [first.scene]
    other = dataclasses.replace(second, id="other", image=first.image)
    assert (other.id, other.image is first.image, len(drawn)) == ("other", True, 1)


def test_a_limit_that_would_take_hours_to_draw_is_refused_at_once():
    with pytest.raises(R2T2Error, match="draws at most 100,000 questions, not 9,999,999; choose a smaller number"):
        dataset.load("test", 9_999_999, 0)
    assert len(dataset.load("scene", 100_000, 0)) < 1_000


def test_samples_in_use_are_loaded_again_with_their_images() -> None:
    first = dataset.load("test", 3, seed=99)
    image = first[1].image
    again = dataset.load("test", 4, seed=99)
    assert [id(sample) for sample in again[:3]] == [id(sample) for sample in first]
    assert again[1].image is image
    del first, again
    assert dataset.load("test", 2, seed=99)[1].image is not image  # forgotten, and drawn equally
    np.testing.assert_array_equal(dataset.load("test", 2, seed=99)[1].image, image)
