"""Checkpoints from a hub: its cache is used, and what it says is told in one line."""

import pytest

from ports.common.sources import fetch
from r2t2_jax.errors import R2T2Error


def test_a_hub_id_is_found_in_the_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "snapshots" / "abc" / "config.json").write_text("{}")
    assert (fetch("someone/model") / "config.json").read_text() == "{}"


def test_an_id_that_the_hub_does_not_give(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        R2T2Error, match="no folder someone/nothing, and the hub does not give a model of that id"
    ) as told:
        fetch("someone/nothing")
    assert "\n" not in str(told.value)
