"""Names and shapes of MoAI-7B, the position table, and a converted directory that loads."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec
from PIL import Image

from ports.common.checkpoint.mapping import check, from_manifest, named
from ports.moai.auxiliary.build import build_records
from ports.moai.auxiliary.providers.ocr import TextReader
from ports.moai.config import MoAIConfig
from ports.moai.modeling import abstract, count_parameters
from ports.moai.params import IGNORED, converter, leaves, resize_grid, resize_positions
from ports.moai.port import load, shapes, shardings
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load as load_port
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit
from tests.goldens import find_goldens
from tests.ports.moai.checkpoint import write_checkpoint
from tests.ports.moai.tiny import CONFIG, answer_of, draw_inputs, tiny

FULL = MoAIConfig.full_7b()


@pytest.mark.parametrize("path", find_goldens("manifest_moai7b.json"))
def test_golden_manifest(path):
    manifest = json.loads(path.read_text(encoding="utf-8"))
    tensors = from_manifest(manifest)
    _, params = abstract(FULL)
    report = check(leaves(FULL), tensors, params, IGNORED)
    assert len(report.mapped) + len(report.ignored) == len(manifest) == 1197
    unused = sum(int(np.prod(tensors[name].shape)) for name in report.ignored)
    assert count_parameters(FULL) + unused == 8_868_637_720
    missing = {name: tensor for name, tensor in tensors.items() if name != "output.weight"}
    with pytest.raises(R2T2Error, match=r"missing from the checkpoint: output\.weight"):
        check(leaves(FULL), missing, params, IGNORED)
    with pytest.raises(R2T2Error, match=r"unmapped: lm_head\.weight"):
        check(leaves(FULL), {**tensors, "lm_head.weight": tensors["output.weight"]}, params, IGNORED)


@pytest.mark.parametrize("path", find_goldens("golden_moai_misc*.npz"))
def test_golden_position_table(path):
    with np.load(path) as file:
        [table] = [file[name] for name in file.files if name.startswith("pos_embed_in_")]
        [expected] = [file[n] for n in file.files if n.startswith("pos_embed_out_") and "no_half" not in n]
        [exact] = [file[n] for n in file.files if n.startswith("pos_embed_out_no_half_")]
    grid = round((len(expected) - 1) ** 0.5)
    np.testing.assert_allclose(resize_grid(table[1:], grid), exact, rtol=0, atol=1e-6)
    resized = resize_positions(table, grid)
    np.testing.assert_array_equal(resized[0], table[0])
    unit = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)  # float32 noise may cross a rounding
    assert (np.abs(resized - expected)[1:] <= unit[1:] + 1e-6).all() and (resized == expected).mean() > 0.995


@pytest.mark.parametrize("path", find_goldens("golden_moai_misc*.npz"))
def test_golden_normalization_and_colors(path):
    from ports.moai.vision import color_table, normalize

    with np.load(path) as file:
        np.testing.assert_allclose(color_table(), file["pascal_colormap_134x3"], atol=1e-7)
        values = np.broadcast_to(np.arange(256)[:, None], (256, 3))
        for short, dtype in (("f32", "float32"), ("f16", "float16"), ("bf16", "bfloat16")):
            ours = np.asarray(normalize(values, dtype).T, np.float32)
            np.testing.assert_array_equal(ours, file[f"norm_uint8_0_255_{short}"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The first recorded model as an upstream folder: safetensors in float16, config.json, a tokenizer."""
    pytest.importorskip("safetensors.numpy")
    folder = tmp_path_factory.mktemp("upstream")
    golden, tensors = write_checkpoint(folder)
    return folder, golden, tensors


def test_a_converted_directory_loads(checkpoint, tmp_path):
    folder, _, tensors = checkpoint
    report = converter.convert(str(folder), tmp_path / "moai", progress=False)
    assert report["dtype"] == ["float16"]  # on disk; cast where it is loaded
    with pytest.warns(UserWarning, match="without auxiliary inputs"):
        port = load(f"{tmp_path / 'moai'},plora=merged")
    assert port.model.config.merged_plora and port.fingerprint.endswith("aux=none")
    assert port.name == f"moai:{tmp_path / 'moai'},plora=merged,aux=none"
    params = named(port.params)
    assert {leaf.dtype for leaf in params.values()} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(params["lm_head/kernel"], tensors["output.weight"].astype(np.float32).T)
    for leaf in ("plain/qkv_proj/image/kernel", f"{port.gate}/image/kernel", f"{port.gate}/language/bias"):
        assert leaf in params
    for variant, word in (("moai,aux=nowhere", "auxiliary"), ("moai,dtype=int4", "dtype=int4"), ("elsewhere", "model")):
        with pytest.raises(R2T2Error, match=word):
            load(str(tmp_path / variant))
    with pytest.raises(R2T2Error, match="r2t2 convert"):
        load(None)


def test_the_fingerprint_says_what_made_the_auxiliary_records(checkpoint, tmp_path):
    """A bank does not depend on which images a store has; `aux=none` is said in the name and needs no warning."""
    converter.convert(str(checkpoint[0]), tmp_path / "a,b[1]", progress=False)
    stores = [tmp_path / "one", tmp_path / "two, x"]
    reader = TextReader(lambda image: SimpleNamespace(txts=None, scores=None))
    for number, store in enumerate(stores):
        image = np.full((4, 4, 3), number, np.uint8)
        build_records(store, [Sample("q", image, "?", ("A",))], {"lines": reader}, {})
    model = str(tmp_path / "a,b[1]")
    first = load_port(f"{model},aux={stores[0]}")
    both = load_port(f"moai:{model},aux={stores[1]},aux={stores[0]},dtype=float32")
    assert first.fingerprint == both.fingerprint and first.name == f"moai:{model},aux={stores[0]}"
    assert (len(first.processor.auxiliary.rows), len(both.processor.auxiliary.rows)) == (1, 2)
    none = load_port(f"{model},aux=none")
    assert none.fingerprint.endswith("aux=none") and none.fingerprint != first.fingerprint


def test_conversion_resizes_the_position_embedding_of_a_plain_clip_tower(checkpoint, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder, golden, tensors = checkpoint
    name = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"
    plain = np.concatenate([tensors[name][:1], np.random.default_rng(0).normal(size=(9, tensors[name].shape[1]))])
    source = tmp_path / "plain"
    source.mkdir()
    for file in ("config.json", "tokenizer.model"):
        (source / file).write_bytes((folder / file).read_bytes())
    safetensors.save_file({**tensors, name: plain.astype(np.float16)}, source / "model.safetensors")
    converter.convert(str(source), tmp_path / "moai", progress=False)
    with pytest.warns(UserWarning, match="without auxiliary inputs"):
        places = named(load(str(tmp_path / "moai")).params)["vision/tower/position_embedding"]
    expected = resize_positions(plain.astype(np.float16), golden.config.grid)
    np.testing.assert_array_equal(places, expected.astype(np.float32))


@pytest.mark.slow  # three programs
def test_weights_sharded_over_devices_give_the_same_loss():
    model, params = tiny()
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    cut = jax.device_put(params, shardings(params, mesh))
    assert named(cut)["plain/gate_proj/main/kernel"].sharding.spec == PartitionSpec(None, None, "model")
    assert named(cut)["norm/scale"].sharding.spec == PartitionSpec()

    @quick_jit
    def run(params):
        features = model.encode(params, draw_inputs(0))
        return model.answer_loss(params, features, Routing(jnp.full((2, 6), 0.4)), answer_of(7, 8, 95))

    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(run(cut), run(params), atol=1e-5)


def test_shapes_of_the_full_model_need_no_memory():
    model_shapes = shapes(None, 40, 3)
    assert model_shapes.model.spec.shape == (4, 6)
    assert model_shapes.features.stream.shape == (1225 + 40, 4096) and model_shapes.answer.tokens.shape == (3,)
    assert nnx.merge(model_shapes.model.graph, model_shapes.params).embed_tokens.shape == (92545, 4096)
    assert shapes("tiny", None, None).model.config == dataclasses.replace(CONFIG, remat="attention")


def test_the_command_line_prints_the_warning_once_in_one_line(checkpoint, tmp_path, capsys):
    """A warning of ours is shown where those of libraries are not."""
    converter.convert(str(checkpoint[0]), tmp_path / "moai", progress=False)
    (tmp_path / "a.jsonl").write_text('{"id": "1", "image": "a.png", "question": "?", "answer": "x"}\n')
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    words = ["eval", "--model", str(tmp_path / "moai"), "--benchmark", str(tmp_path / "a.jsonl"), "--strategy", "ngd"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 2  # it needs a bank
    lines = [line for line in capsys.readouterr().err.splitlines() if "without auxiliary inputs" in line]
    assert len(lines) == 1 and lines[0].startswith("r2t2: MoAI runs without auxiliary inputs")
