"""Conversion: the content of a model directory; failures leave nothing behind."""

import dataclasses
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ports.common.checkpoint.load import open_model_directory, restore
from ports.common.checkpoint.mapping import Leaf
from r2t2_jax.errors import R2T2Error
from tests.ports.common.toy_model import CONVERTER, TOKENIZER, ToyConfig, leaves, toy_tensors, write_source


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source", toy_tensors())


def convert(source: Path, converter=CONVERTER):
    return converter.convert(str(source), source.parent / "model", progress=False)


def assert_nothing_left(source: Path) -> None:
    assert [path.name for path in source.parent.iterdir()] == ["source"]


def read(source: Path, dtype=None):
    abstract = CONVERTER.abstract_params(ToyConfig())
    if dtype is not None:
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), abstract)
    return restore(open_model_directory(source.parent / "model", "toy"), abstract)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_dtype_is_kept_on_disk_and_cast_at_load(tmp_path, dtype):
    source, tensors = write_source(tmp_path / "source", toy_tensors(dtype=dtype)), toy_tensors(dtype=dtype)
    described = convert(source)
    assert described["dtype"] == [np.dtype(dtype).name]
    for wanted in (dtype, np.float32):
        params = read(source, wanted)
        np.testing.assert_array_equal(params["scale"][...], tensors["scale"].astype(wanted))
        kernel = params["layers"]["kernel"][...]
        assert kernel.dtype == wanted
        for layer in range(3):
            np.testing.assert_array_equal(kernel[layer], tensors[f"h.{layer}.fc.weight"].T.astype(wanted))


def test_the_directory_records_its_source(source):
    described = convert(source)
    model = source.parent / "model"
    assert json.loads((model / "model.json").read_text()) == described
    assert set(described["inputs"]) == {path.name for path in source.iterdir()}
    assert described["report"]["ignored"] == ["h.0.cache", "h.2.cache", "h.1.cache"]
    assert described["config"] == {"layers": 3, "width": 4}
    assert (model / "tokenizer" / "tokenizer.json").read_bytes() == TOKENIZER.encode()
    assert sorted(path.name for path in source.parent.iterdir()) == ["model", "source"]


def test_unknown_fields_are_reported_once_recorded_and_refused_if_strict(source, caplog):
    described = {
        "layers": 3, "activation": "none", "learning_rate": 1e-3, "dtype": "float32", "_flash_attn_2_enabled": True,
        "temperature": 0.5, "is_decoder": False, "gamma": [1, 2], "part": {"size": 2, "seed": 7, "delta": "x"},
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(described))
    with pytest.raises(R2T2Error, match=r"gamma = \[1, 2\], part\.delta = \"x\"\); convert without --strict") as caught:
        CONVERTER.convert(str(source), source.parent / "model", progress=False, strict=True)
    assert "layers" not in str(caught.value)
    assert_nothing_left(source)
    with caplog.at_level(logging.WARNING, "r2t2"):
        assert convert(source)["unknown_fields"] == {"config.json": {"gamma": [1, 2], "part.delta": "x"}}
    (record,) = caplog.records
    assert "the port toy does not know (config.json: gamma = [1, 2], part.delta" in record.getMessage()
    read(source)
    assert len(caplog.records) == 1  # the model directory says nothing more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "activation = 'relu', only 'none' is implemented"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = .*only None is implemented"),
        ({"is_decoder": True, "gamma": 1}, "is_decoder = True, only False is implemented$"),
    ],
)
def test_fields_that_change_the_computation_are_refused_by_name(source, change, message):
    (source / "config.json").write_text(json.dumps(change))
    with pytest.raises(R2T2Error, match=message):
        convert(source)
    assert_nothing_left(source)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(
    "name", ["plain", "with space", "runs[1]", "back\\slash", "größe", "a*b?", "{c},d", "co:lon", "~x"]
)
def test_every_path_converts_and_loads(tmp_path, monkeypatch, name, relative):
    monkeypatch.chdir(tmp_path)
    folder = Path(name) if relative else tmp_path / name
    write_source(folder / "source", toy_tensors())
    CONVERTER.convert(str(folder / "source"), folder / "model", progress=False)
    params = restore(open_model_directory(folder / "model", "toy"), CONVERTER.abstract_params(ToyConfig()))
    np.testing.assert_array_equal(params["words"][...], toy_tensors()["wte.weight"].astype("f4"))
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["model", "source"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_large_parameters_are_stored_in_pieces(source, monkeypatch):
    monkeypatch.setattr("ports.common.checkpoint.directory.PIECE", 16)  # two rows of the embedding, half a kernel
    described = convert(source)
    assert [len(described["parameters"][name]["pieces"]) for name in ("words", "layers/kernel")] == [3, 3 * 2]
    params, tensors = read(source), toy_tensors()
    np.testing.assert_array_equal(params["words"][...], tensors["wte.weight"].astype("f4"))
    kernels = [tensors[f"h.{layer}.fc.weight"].T.astype("f4") for layer in range(3)]
    np.testing.assert_array_equal(params["layers"]["kernel"][...], kernels)


def test_arrays_go_where_their_sharding_says(source):
    convert(source)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, None, "model"))
    abstract = CONVERTER.abstract_params(ToyConfig())
    abstract["layers"]["kernel"] = abstract["layers"]["kernel"].replace(
        jax.ShapeDtypeStruct((3, 4, 4), jnp.bfloat16, sharding=sharding)
    )
    params = restore(open_model_directory(source.parent / "model", "toy"), abstract)
    assert params["layers"]["kernel"][...].sharding == sharding


def test_a_mapping_that_does_not_fit_leaves_nothing_behind(source):
    bad = dataclasses.replace(CONVERTER, leaves=lambda config: leaves(config) | {"more": Leaf(("scale",))})
    with pytest.raises(R2T2Error, match=r"mapped 2 times: scale.*mapped to no parameter: more"):
        convert(source, bad)
    assert_nothing_left(source)


def test_new_parent_folders_are_removed_after_a_failure(source):
    def to_new_folder(converter):
        return converter.convert(str(source), source.parent / "new" / "folder" / "model", progress=False)

    bad = dataclasses.replace(CONVERTER, leaves=lambda config: leaves(config) | {"words": _words(_interrupt)})
    with pytest.raises(KeyboardInterrupt):
        to_new_folder(bad)
    assert_nothing_left(source)
    to_new_folder(CONVERTER)
    assert (source.parent / "new" / "folder" / "model" / "model.json").is_file()


def test_tied_tensors_must_be_equal(tmp_path):
    tensors = toy_tensors()
    source = write_source(tmp_path / "source", tensors | {"head.weight": tensors["head.weight"] + 1})
    with pytest.raises(R2T2Error, match=r"head\.weight should equal wte\.weight"):
        convert(source)
    assert_nothing_left(source)


def run_script(source: Path, lines: str) -> subprocess.CompletedProcess[str]:
    """Convert in a process of its own, after `lines`."""
    script = (
        "import os, resource, signal, sys\n"
        "from pathlib import Path\n"
        "import r2t2_jax.runs.atomic_io as atomic_io\n"
        "from tests.ports.common.toy_model import CONVERTER\n"
        f"{lines}\n"
        "CONVERTER.convert(sys.argv[1], Path(sys.argv[2]), progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(source), str(source.parent / "model")]
    return subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True)


def test_a_full_disk_leaves_nothing_behind(source):
    # A file may not grow beyond 200 bytes: writes fail inside Orbax's threads as on a disk that is full.
    done = run_script(source, "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))")
    assert done.returncode == 1
    *before, last = done.stderr.splitlines()
    assert last.endswith(f"R2T2Error: cannot write {source.parent / 'model'} (File too large)")
    assert sum(line.startswith("Traceback") for line in before) == 2  # the cause and our error, each once
    assert_nothing_left(source)


def test_too_little_space_is_reported_before_anything_is_written(source, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(R2T2Error, match=r"needs 0\.0 GB, 0\.0 GB are free"):
        convert(source)
    assert_nothing_left(source)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), RuntimeError("bug")])
def test_an_error_while_reading_leaves_nothing_behind(source, error):
    failing = dataclasses.replace(
        CONVERTER, leaves=lambda config: leaves(config) | {"words": _words(lambda tensor: _interrupt(tensor, error))}
    )
    expected = R2T2Error if isinstance(error, OSError) else error if isinstance(error, type) else type(error)
    with pytest.raises(expected):
        convert(source, failing)
    assert_nothing_left(source)
    convert(source)  # and can simply be run again


def _interrupt(tensor, error=KeyboardInterrupt):
    """Raise as soon as a tensor is read; while only shapes are checked, it is a view of one zero."""
    if tensor.strides == (0, 0):
        return tensor
    raise error


def _words(change):
    return Leaf(("wte.weight",), change)


def test_a_killed_conversion_is_run_again(source):
    done = run_script(source, "atomic_io.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    (draft,) = (path.name for path in source.parent.iterdir() if path.name != "source")
    assert draft.startswith(".draft-") and draft.endswith("-model")  # all was written, nothing was published
    convert(source)
    assert {path.name for path in source.parent.iterdir()} == {"source", "model"}
    assert read(source)["words"].shape == (5, 4)


def test_a_second_conversion_to_the_same_place_is_refused(source):
    busy = source.parent / ".draft-1-model"
    busy.mkdir()
    handle = os.open(busy, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(R2T2Error, match="another conversion is writing"):
            convert(source)
    finally:
        os.close(handle)
    convert(source)
    assert not busy.exists()


def test_an_existing_model_is_not_overwritten(source):
    convert(source)
    with pytest.raises(R2T2Error, match="exists already"):
        convert(source)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "no folder nowhere, and it is no hub id"), ("source/config.json", "is a file")],
)
def test_a_missing_source_is_refused(source, monkeypatch, name, message):
    monkeypatch.chdir(source.parent)
    with pytest.raises(R2T2Error, match=message):
        CONVERTER.convert(name, Path("model"))
    assert_nothing_left(source)
