"""Sources of checkpoints: a folder and a hub id behave alike, missing files are named before weights are fetched."""

import logging
import shutil

import pytest

from ports.common.checkpoint.convert import fetch_descriptions, fetch_weights
from ports.common.checkpoint.directory import sha256_of
from r2t2_jax.errors import R2T2Error
from tests.ports.common.embedder_folders import WRITERS
from tests.ports.moai import checkpoint as moai
from tests.ports.mova.checkpoint import write_checkpoint


def test_a_hub_id_is_found_in_the_cache(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    (model / "snapshots" / "abc" / "config.json").write_text("{}")
    assert (fetch_descriptions("someone/model") / "config.json").read_text() == "{}"


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
    fetch_weights("someone/model", (".", "2_Dense"))
    files_there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files_there == {"config.json", "vocab.txt", "experts/sam/config.json", *fetched}


def test_an_id_that_the_hub_does_not_provide_is_refused(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        R2T2Error, match="no folder someone/nothing, and the hub does not give a model of that id"
    ) as caught:
        fetch_descriptions("someone/nothing")
    assert "\n" not in str(caught.value)


class Hub:
    """A hub in a folder, with the client's own rule for patterns; `fetched` has the files in the order of requests."""

    def __init__(self, stored, copy):
        self.stored, self.copy, self.fetched = stored, copy, []

    def snapshot_download(self, name, *, allow_patterns, ignore_patterns=None):
        from huggingface_hub.utils import filter_repo_objects

        paths = [path.relative_to(self.stored).as_posix() for path in sorted(self.stored.rglob("*")) if path.is_file()]
        for path in filter_repo_objects(paths, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns):
            self.fetched.append(path)
            (self.copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.stored / path, self.copy / path)
        return str(self.copy)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    instance = Hub(tmp_path / "stored", tmp_path / "copy")
    monkeypatch.setattr(library, "snapshot_download", instance.snapshot_download)
    return instance


def identity(model):
    """The description of a model directory but for its source and the sizes of its files, which vary with its name."""
    return {name: value for name, value in model.items() if name not in ("source", "checkpoint")}


@pytest.mark.parametrize("name", WRITERS)
def test_a_hub_id_gives_the_model_directory_of_the_folder(hub, tmp_path, name):
    from r2t2_jax.plugins import find

    converter = find("r2t2.converters", name, "model")
    WRITERS[name](hub.stored)
    ours = converter.convert(str(hub.stored), tmp_path / "ours", progress=False)
    theirs = converter.convert("owner/name", tmp_path / "theirs", progress=False)
    assert identity(theirs) == identity(ours) and theirs["source"] == "owner/name"


@pytest.mark.parametrize("source", ["stored", "owner/name"])
@pytest.mark.parametrize(
    ("name", "missing", "content"),
    [
        ("minilm", "tokenizer.json", "the tokenizer"),
        ("nv_embed", "tokenizer.json", "the tokenizer"),
        ("stella", "2_Dense_1024/config.json", "the dense layer"),
        ("gte_qwen2", "config.json", "the sizes of the model"),
        ("moai", "tokenizer.model", "the sentencepiece tokenizer"),
    ],
)
def test_missing_files_are_named_before_weights_are_fetched(hub, tmp_path, source, name, missing, content):
    from r2t2_jax.plugins import find

    (WRITERS | {"moai": moai.write_checkpoint})[name](hub.stored)
    (hub.stored / missing).unlink()
    place = "stored" if source == "stored" else "a folder into which you download the model"
    with pytest.raises(R2T2Error, match=rf"^{source} lacks {missing} \({content}.*Put what is missing into {place}"):
        find("r2t2.converters", name, "model").convert(source, tmp_path / "model", progress=False)
    assert not (tmp_path / "model").exists()
    assert not [path for path in hub.fetched if path.endswith((".safetensors", ".bin"))]


def test_the_vocabulary_of_mova_may_come_from_elsewhere(hub, tmp_path, caplog):
    from ports.mova.params import converter

    write_checkpoint(hub.stored)
    vocabulary = (hub.stored / "vocab.txt").rename(tmp_path / "words.txt")
    for source in ("stored", "owner/name"):
        with pytest.raises(R2T2Error, match=r"lacks vocab\.txt .*bert-large-uncased.* vocab\.txt by --vocab FILE"):
            converter.convert(source, tmp_path / "model", progress=False)
    assert not [path for path in hub.fetched if path.endswith(".safetensors")]
    with caplog.at_level(logging.WARNING, "r2t2"):
        model = converter.convert("owner/name", tmp_path / "model", progress=False, vocabulary=vocabulary)
    assert "lacks experts/vary*/preprocessor_config.json" in caplog.text and "that of CLIP is assumed" in caplog.text
    assert model["tokenizer"]["vocab.txt"] == model["inputs"]["vocab.txt"] == sha256_of(vocabulary)
    assert (tmp_path / "model" / "tokenizer" / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    vocabulary.write_text(vocabulary.read_text() + "more\nwords\n")
    with pytest.raises(R2T2Error, match=r"words\.txt has \d+ words, the text encoder of this MoVA has \d+"):
        converter.convert("stored", tmp_path / "other", progress=False, vocabulary=vocabulary)


def test_a_tokenizer_may_come_from_elsewhere(tmp_path):
    from ports.embedders.minilm import converter

    source, folder = WRITERS["minilm"](tmp_path / "source"), tmp_path / "tokenizer"
    whole = converter.convert(str(source), tmp_path / "whole", progress=False)
    folder.mkdir()
    (source / "tokenizer.json").rename(folder / "tokenizer.json")
    (folder / "model.safetensors").write_bytes(b"not copied")
    made = converter.convert(str(source), tmp_path / "model", progress=False, tokenizer=folder)
    assert identity(made) == identity(whole)
    assert [path.name for path in (tmp_path / "model" / "tokenizer").iterdir()] == ["tokenizer.json"]
    with pytest.raises(R2T2Error, match=r"minilm reads no vocab\.txt; it reads config\.json, tokenizer\.json"):
        converter.convert(str(source), tmp_path / "other", progress=False, vocabulary=folder / "tokenizer.json")
    with pytest.raises(R2T2Error, match=r"has no tokenizer files; known are tokenizer\.json"):
        converter.convert(str(source), tmp_path / "other", progress=False, tokenizer=tmp_path / "whole")
