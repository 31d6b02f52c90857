"""`r2t2 answer`, `r2t2 pocket scene` and `r2t2 report` as typed."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ports.pocket.dataset import load
from r2t2_jax.cli.main import main
from tests.toy_port import make_samples

PORT = "tests.toy_port:toy"
ONE = make_samples(1, seed=1, hinted=0.0)[0]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(ONE.image).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def typed(image: Path, *more: str, question: str = ONE.question) -> list[str]:
    return ["answer", "--model", PORT, "--image", str(image), "--question", question, *more]


@pytest.mark.parametrize("from_file", [False, True])
def test_routing_by_hand_is_read_from_the_line_or_a_file(
    image: Path, from_file: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    row = [float(name == ONE.experts[0]) for name in ("left", "middle", "right")]
    routing = json.dumps([row, row])
    if from_file:
        (image.parent / "r.json").write_text(routing)
        routing = f"@{image.parent / 'r.json'}"
    page = image.parent / "page" / "answer.html"
    assert main(typed(image, "--routing", routing, "--html", str(page))) == 0
    printed = capsys.readouterr().out
    assert f"by hand  {ONE.answers[0]}" in printed
    assert f"Wrote {page}." in printed
    assert ONE.answers[0] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--routing", "[1, 0"], "--routing is not JSON"),
        (["--routing", "[NaN, 0, 1]"], "NaN"),
        (["--routing", "[[1, 0, 0]]"], "have shape [1, 3]"),
        (["--routing", "@none.json"], "cannot read the routing weights none.json"),
        (["--strategy", "magic"], "unknown strategy 'magic'; choose one of base"),
        ([], "no set of references is registered for toy"),
        (["--html", "."], "it is a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    image: Path, more: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(image, *more)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert cause in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--steer", "steer.json", "--strategy", "ngd"], "a steering takes the place of strategy"),
        (["--steer", "steer.json", "--routing", "[1]"], "a steering takes the place of strategy"),
        (["--routing", "[1]", "--strategy", "base"], "take the place of a strategy"),
        (["--routing", "[1]", "--preset", "paper"], "read neither a preset nor a bank"),
    ],
)
def test_options_that_exclude_each_other_are_refused_before_a_model_is_loaded(
    image: Path, more: list[str], cause: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("r2t2_jax.evaluation.setup.open_port", lambda *names: pytest.fail("a model was loaded"))
    assert main(typed(image, *more)) == 2
    assert cause in capsys.readouterr().err


@pytest.mark.parametrize(("content", "question"), [(None, "What?"), (b"\x89PNG broken", "What?"), (b"", " ")])
def test_a_missing_image_is_refused(
    tmp_path: Path, content: bytes | None, question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "bad.png").write_bytes(content)
    assert main(typed(tmp_path / "bad.png", question=question)) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_scene_is_drawn_as_the_model_sees_it_and_its_questions_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "scene.png"
    assert main(["pocket", "scene", "--seed", "3", "--questions", "11", "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()[2:]
    samples = load("scene", 11, 3)
    assert [" ".join(line.split()) for line in printed] == [
        f"{sample.question} {sample.answers[0]}" for sample in samples
    ]
    assert len({sample.question for sample in samples}) == len(samples) == 11
    assert len({sample.category for sample in samples[:8]}) == 8
    np.testing.assert_array_equal(np.asarray(Image.open(out)), samples[0].image)


@pytest.mark.parametrize("more", [["--out", "scene.jpg"], ["--seed", "-1"], ["--questions", "0"]])
def test_a_scene_that_cannot_be_drawn_is_refused(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pocket", "scene", *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path("scene.png").exists()
