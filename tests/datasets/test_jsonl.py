"""The fields of a JSONL line, and errors that name the file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.prompts import as_prompt
from r2t2_jax.datasets.registry import load_jsonl
from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.metrics import get_metric

RED = (200, 10, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (6, 4), RED).save(tmp_path / "red.png")
    return tmp_path


def write(folder: Path, *lines: dict | str) -> Path:
    path = folder / "set.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def line(**fields: object) -> dict:
    return {"image": "red.png", "question": "What color?", "answer": "red"} | fields


def test_a_line_with_every_field(folder: Path) -> None:
    path = write(folder, line(answers=["red", "dark red"], id="q7", style="word", category="color", split="test"))
    (sample,) = load_jsonl(path)
    assert (sample.id, sample.question, sample.answers) == ("q7", "What color?", ("red", "dark red"))
    assert (sample.style, sample.category, sample.split) == ("word", "color", "test")
    assert sample.image.dtype == np.uint8 and sample.image.shape == (4, 6, 3)
    assert tuple(sample.image[0, 0]) == RED


def test_ids_name_the_line_and_blank_lines_count(folder: Path) -> None:
    path = write(folder, line(), "", line(question="Line\u2028separator?"))
    assert [sample.id for sample in load_jsonl(path)] == ["set-1", "set-3"]


def test_repeated_answers_count(folder: Path) -> None:
    people = ["red"] * 7 + ["crimson"] * 3
    crimson = line(answer="crimson", answers=people)
    first, second, third = load_jsonl(write(folder, line(answers=people), crimson, line(answer="dark", answers=people)))
    assert first.answers == tuple(people)
    assert second.answers == ("crimson",) * 3 + ("red",) * 7
    assert third.answers == ("dark", *people)
    expected = {"vqa": (1.0, 0.9), "textvqa": (1.0, 0.9), "vqa_llava": (1.0, 0.9), "aokvqa_direct": (1.0, 1.0)}
    for name, scores in expected.items():
        assert [get_metric(name)(text, first) for text in ("red", "crimson")] == pytest.approx(scores)


def test_an_empty_option_keeps_the_letters_of_the_others(folder: Path) -> None:
    options = ["cat", "", "bird"]
    (sample,) = load_jsonl(write(folder, line(options=options, style="letter", answer="bird")))
    assert sample.answers == ("C",)
    assert as_prompt("Which?", sample.options).split("\n") == ["Which?", "A. cat", "C. bird"]
    with pytest.raises(R2T2Error, match="answer 'B' is neither one of"):
        load_jsonl(write(folder, line(options=options, style="letter", answer="B")))


@pytest.mark.parametrize(
    ("options", "answer", "letters"),
    [(["B", "A"], "A", "A and B"), (["b", "x"], "b", "B and A"), (["red", "blue", "red"], "red", "A and C")],
)
def test_ambiguous_options_are_refused(folder: Path, options: list[str], answer: str, letters: str) -> None:
    path = write(folder, line(options=options, style="letter", answer=answer))
    with pytest.raises(R2T2Error, match=rf"set\.jsonl:1: answer .* is ambiguous, it stands for the options {letters}"):
        load_jsonl(path)


def test_options_that_repeat_can_be_answered_by_letter(folder: Path) -> None:
    options = ["red", "blue", "red"]
    samples = load_jsonl(write(folder, *(line(options=options, style="letter", answer=x) for x in ("blue", "C", "b"))))
    assert [sample.answers for sample in samples] == [("B",), ("C",), ("B",)]


@pytest.mark.parametrize("right", [3, 28])
@pytest.mark.parametrize("style", ["letter", "word"])
def test_more_options_than_letters_are_refused_by_line(folder: Path, right: int, style: str) -> None:
    options = [f"street {i}" for i in range(1, 31)]
    with pytest.raises(R2T2Error, match=r"set\.jsonl:1: a question of 30 options; letters name 26 at most"):
        load_jsonl(write(folder, line(options=options, style=style, answer=f"street {right}")))


def test_files_that_begin_with_a_dot_are_ignored(folder: Path) -> None:
    write(folder, line())
    (folder / "._set.jsonl").write_bytes(b"\0\5\x16\7")
    assert [item.id for item in DATASETS["jsonl"].read(folder, "")] == ["set-1"]


def test_letter_style_gives_the_letter(folder: Path) -> None:
    options = ["blue", "red", "green"]
    path = write(folder, line(options=options, style="letter"), line(options=options, style="letter", answer="c"))
    assert [sample.answers for sample in load_jsonl(path)] == [("B",), ("C",)]


def test_split_number_and_seed(folder: Path) -> None:
    path = write(folder, *(line(id=str(i), split="test" if i % 2 else "train") for i in range(20)))
    assert [s.id for s in load_dataset(str(path), "test")] == [str(i) for i in range(1, 20, 2)]
    first, second = (tuple(s.id for s in load_dataset(str(path), "test", 4, seed)) for seed in (0, 1))
    assert len(set(first)) == 4 and list(map(int, first)) == sorted(map(int, first))
    assert first != second
    with pytest.raises(R2T2Error, match="no sample in split 'dev'"):
        load_dataset(str(path), "dev")


def test_images_may_be_in_another_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("lines"), line())
    assert len(load_jsonl(path, images=folder)) == 1
    with pytest.raises(R2T2Error, match=r"set\.jsonl:1: cannot read image"):
        load_jsonl(path)


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object, found list"),
        (line(question=3), "'question' must be a string, not 3"),
        (line(answers="red"), "'answers' must be a list of strings"),
        (line(catgory="red"), "unknown field 'catgory'; did you mean 'category'? known: image"),
        ({"image": "red.png", "answer": "red"}, "'question' is missing"),
        ({"image": "red.png", "question": "?"}, "'answer' is missing"),
        (line(style="essay"), "unknown style 'essay'; choose one of letter, word, plain"),
        (line(image="none.png"), "cannot read image"),
        (line(image="set.jsonl"), "cannot read image"),
        (line(style="letter", options=["blue"]), "answer 'red' is neither one of the options"),
        (line(id="set-1"), "id 'set-1' occurs twice"),
    ],
)
def test_errors_name_file_and_line(folder: Path, bad: dict | str, cause: str) -> None:
    path = write(folder, line(), bad)
    with pytest.raises(R2T2Error) as error:
        load_jsonl(path)
    assert str(error.value).startswith(f"{path}:2: {cause}")
    assert "\n" not in str(error.value)


def test_a_broken_image_names_its_line(folder: Path) -> None:
    data = (folder / "red.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(R2T2Error, match=r"set\.jsonl:1: cannot read image .*cut\.png"):
        load_jsonl(write(folder, line(image="cut.png")))


def test_missing_file_and_wrong_number(folder: Path) -> None:
    with pytest.raises(R2T2Error, match="cannot read"):
        load_jsonl(folder / "absent.jsonl")
    with pytest.raises(R2T2Error, match="at least 1, not 0"):
        load_dataset(str(write(folder, line())), n=0)


TALK = [
    {"from": "human", "value": "<image>\nWhat color is it?"},
    {"from": "gpt", "value": "red"},
    {"from": "human", "value": "Sure?"},
]
BY_ROLE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "What color is it?"}]},
    {"role": "assistant", "content": "red"},
]


@pytest.mark.parametrize(
    ("fields", "notes"),
    [
        ({"id": "7", "image": "red.png", "conversations": TALK}, ["'conversations' is read as question and answer"]),
        ({"id": "7", "images": ["red.png"], "messages": BY_ROLE}, ["'messages' is read", "'images' is read as image"]),
        (
            {"question_id": 7, "image_path": "red.png", "query": "What color is it?", "ground_truth": "red"},
            ["'image_path' is read as image", "'query' is read as question", "'ground_truth' is read as answer"],
        ),
        (
            {"qid": "7", "img": "red.png", "text": "What color is it?", "label": "red", "width": 4, "source": ["x"]},
            ["'text' is read as question", "not read: 'width', 'source'"],
        ),
        (
            line(id="7", question="What color is it?", answer="red")
            | {"conversations": TALK, "image_path": "none.png"},
            ["not read: 'conversations', 'image_path'"],
        ),
    ],
)
def test_field_names_of_other_formats_are_read_with_one_note(folder: Path, fields: dict, notes: list[str]) -> None:
    numbered = "question_id" if "question_id" in fields else "qid" if "qid" in fields else "id"
    path = write(folder, fields, fields | {numbered: "8"})
    with pytest.warns(R2T2Warning) as caught:
        samples = load_jsonl(path)
    (note,) = [str(warning.message) for warning in caught]
    assert note.startswith(f"{path}: ") and all(part in note for part in notes)
    assert [sample.id for sample in samples] == ["7", "8"]
    assert (samples[0].question, samples[0].answers) == ("What color is it?", ("red",))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"conversations": "red"}, "'conversations' must be a list of turns"),
        ({"conversations": [1]}, "'conversations' must be a list of turns"),
        ({"messages": [{"role": "user"}]}, "'messages' must be a list of turns"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "'messages' must be a list"),
        ({"conversations": TALK[:1]}, "'answer' is missing"),
        ({"conversations": []}, "'question' is missing"),
        ({"images": ["a.png", "b.png"], "question": "?", "answer": "x"}, "'images' has 2 images; a question has one"),
        ({"image_path": 3, "question": "?", "answer": "x"}, "'image' must be a string, not 3"),
        ({"imagee": "red.png", "question": "?", "answer": "x"}, "unknown field 'imagee'; did you mean 'image'?"),
        ({"Answer": "red", "question": "?"}, "unknown field 'Answer'; did you mean 'answer'?"),
        ({"optoins": ["a"], "question": "?", "answer": "x"}, "unknown field 'optoins'; did you mean 'options'?"),
    ],
)
def test_other_formats_with_faults_name_file_and_line(folder: Path, fields: dict, cause: str) -> None:
    path = write(folder, fields)
    with pytest.raises(R2T2Error) as error:
        load_jsonl(path)
    assert str(error.value).startswith(f"{path}:1: ") and cause in str(error.value)


@pytest.mark.parametrize("name", ["questions.json", "questions.csv"])
def test_other_kinds_of_files_are_refused_with_the_kind_that_is_read(name: str) -> None:
    with pytest.raises(R2T2Error, match=r"are read from \.jsonl files, one object per line"):
        load_dataset(name)
