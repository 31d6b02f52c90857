"""The fields of a JSONL line, and errors that name the file and line."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.registry import load_jsonl
from r2t2_jax.errors import R2T2Error

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
        (line(color="red"), "unknown field 'color'; known: image"),
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
