"""Checkpoints from a hub: its cache is used, and its errors are one line."""

import pytest

from ports.common.checkpoint.convert import fetch
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


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (["model.safetensors", "pytorch_model.bin"], ["2_Dense/model.safetensors", "model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
    ],
)
def test_weights_are_fetched_in_one_format_from_the_folders_that_count(tmp_path, monkeypatch, there, fetched):
    """A hub in a folder, with the client's own rule for patterns."""
    hub = pytest.importorskip("huggingface_hub")
    files = ["config.json", "vocab.txt", "experts/sam/model.safetensors", "experts/sam/config.json", *there]
    if "model.safetensors" in there:
        files += ["2_Dense/model.safetensors", "3_Dense/model.safetensors"]

    def download(name, *, allow_patterns, ignore_patterns=None):
        selected = hub.utils.filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        for file in selected:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    fetch("someone/model", (".", "2_Dense"))
    files_there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files_there == {"config.json", "vocab.txt", "experts/sam/config.json", *fetched}


def test_an_id_that_the_hub_does_not_provide_is_refused(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        R2T2Error, match="no folder someone/nothing, and the hub does not give a model of that id"
    ) as caught:
        fetch("someone/nothing")
    assert "\n" not in str(caught.value)
