"""Settings of single sets: metrics, splits and longest answers."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import read_benchmarks, read_sets, settings_by_set
from tests.toy_port import toy

NAMES = ["gqa", "mme", "own=1.jsonl"]


def test_a_setting_of_all_sets_or_of_one() -> None:
    assert settings_by_set("--metric", "", NAMES) == dict.fromkeys(NAMES)
    assert settings_by_set("--metric", "gqa", NAMES) == dict.fromkeys(NAMES, "gqa")
    values = settings_by_set("--metric", "gqa=gqa_llava, exact_match,own=1.jsonl=startswith", NAMES)
    assert values == {"gqa": "gqa_llava", "mme": "exact_match", "own=1.jsonl": "startswith"}
    assert settings_by_set("--split", "gqa=val", NAMES) == {"gqa": "val", "mme": None, "own=1.jsonl": None}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("vqa=x", "names 'vqa', which is not one of the sets gqa, mme, own=1.jsonl"),
        ("gqa=", "has an empty value"),
        ("a,,b", "has an empty value"),
        ("a,b", "has two values for all sets"),
        ("gqa=a,gqa=b", "has two values for gqa"),
        ("gqa=a,mme=b,own=1.jsonl=c,d", "gives every set its own value, so 'd' is for none"),
    ],
)
def test_settings_that_fit_no_set_are_refused(text: str, cause: str) -> None:
    with pytest.raises(R2T2Error, match=f"--metric .* {cause}"):
        settings_by_set("--metric", text, NAMES)


@pytest.fixture
def files(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    for name in ("one", "two"):
        rows = [
            {"image": "a.png", "question": name, "answer": "yes", "split": split, "id": split} for split in ("x", "y")
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [str(tmp_path / f"{name}.jsonl") for name in ("one", "two")]


@pytest.mark.parametrize("read", [read_sets, read_benchmarks])
def test_sets_are_read_with_their_own_settings(read, files) -> None:
    first, second = files
    sets = read(files, f"{first}=x,y", None, 0, "", f"{second}=startswith", f"64,{first}=5")
    assert [questions.metric for questions in sets.values()] == ["exact_match", "startswith"]
    assert [questions.source.split for questions in sets.values()] == ["x", "y"]
    assert [[sample.id for sample in questions.samples] for questions in sets.values()] == [["x"], ["y"]]
    assert [questions.max_new_tokens for questions in sets.values()] == [5, 64]


def test_answers_are_as_long_as_the_option_the_benchmark_or_the_port_says(files) -> None:
    (questions,) = read_sets(files[:1], None, None, 0, "", "").values()
    port = replace(toy(), max_new_tokens=128, token_limits={"mme": 5})
    mme = replace(questions, source=replace(questions.source, name="mme"))
    assert questions.answering_port(port).max_new_tokens == 128
    assert mme.answering_port(port).max_new_tokens == 5
    assert replace(mme, max_new_tokens=7).answering_port(port).max_new_tokens == 7
    for text in ("0", "-1", "five", "1e3", "100001", "9" * 5000):
        with pytest.raises(R2T2Error, match=r"--max-new-tokens .* is not a number from 1 to 100,000"):
            read_sets(files, None, None, 0, "", "", text)


def test_a_metric_that_cannot_score_a_set_is_refused(files) -> None:
    with pytest.raises(R2T2Error, match=r"metric visual7w needs .*, unlike 'x' of .*one\.jsonl: choose another"):
        read_benchmarks(files, None, None, 0, "", "visual7w")
    with pytest.raises(R2T2Error, match="metric vqa needs 10 human answers"):
        read_sets(files, None, None, 0, "", f"{files[1]}=vqa")
