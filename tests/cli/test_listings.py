"""`r2t2 strategies`, `metrics`, `models` and `datasets list`: every name with a line, also as JSON and piped."""

import json
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.contract import Sample
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.methods import METHODS
from r2t2_jax.metrics import METRICS, check_samples, needs_of_metric
from r2t2_jax.plugins import CONVERTERS, PORTS, find, registered


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_strategies_have_a_role_and_a_description(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(printed(capsys, "strategies", "--json"))}
    assert list(rows) == list(METHODS)
    assert all(row["description"] and row["role"] in ("method", "control", "bound") for row in rows.values())
    text = printed(capsys, "strategies")
    for row in rows.values():
        assert any(row["name"] in line and row["description"] in line for line in text.splitlines())


def test_metrics_say_what_they_need(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(printed(capsys, "metrics", "--json"))}
    assert list(rows) == list(METRICS) and all(row["description"] for row in rows.values())
    assert rows["vqa"]["needs"] == "10 human answers" and rows["mme"]["needs"] == "yes or no"
    text = printed(capsys, "metrics")
    assert all(row["description"] in text for row in rows.values())


def test_a_metric_refuses_questions_without_what_it_needs() -> None:
    sample = Sample("q", None, "What is it?", ("a dog",))  # one answer, no options
    for name in METRICS:
        if needs_of_metric(name):
            with pytest.raises(R2T2Error, match=f"metric {name} needs .*, unlike 'q' of set: choose another metric"):
                check_samples(name, [sample], "set")
        else:
            check_samples(name, [sample], "set")


def test_models_name_their_weights(capsys: pytest.CaptureFixture[str]) -> None:
    groups = json.loads(printed(capsys, "models", "--json"))
    rows = {row["name"]: row for row in groups["models"]}
    assert list(rows) == registered(PORTS) and all(row["description"] for row in rows.values())
    assert rows["pocket"]["weights"] == "come with the package"
    assert rows["moai"]["weights"] == "r2t2 convert moai BK-Lee/MoAI-7B DIR"
    assert rows["mova"]["hub"] == "zongzhuofan/llama3-mova-8b"
    text = printed(capsys, "models")
    assert "minilm" in text and all(row["description"] in text for row in rows.values())
    for name in registered(CONVERTERS):
        assert find(CONVERTERS, name, "converter").hub.count("/") in (0, 1)


def test_datasets_are_listed_with_generated_ones_and_unbroken_addresses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2T2_DATA", str(tmp_path))
    text = printed(capsys, "datasets", "list")
    assert "pocket" in text and all(name in text for name in DATASETS)
    lines = printed(capsys, "datasets", "list", "--files").splitlines()
    for source in DATASETS.values():
        assert source.name in lines and f"  license: {source.license}" in lines and f"  files: {source.files}" in lines
        assert not source.home or f"  home: {source.home}" in lines
    rows = json.loads(printed(capsys, "datasets", "list", "--json"))["datasets"]
    assert [row["name"] for row in rows] == ["pocket", *DATASETS]


def test_pocket_is_shown_and_compared_without_a_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert printed(capsys, "datasets", "show", "pocket", "--limit", "2") == "Wrote pocket.html.\n"
    assert Path("pocket.html").read_text(encoding="utf-8").count("<figure>") == 2
