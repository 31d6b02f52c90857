"""`r2t2 routes record` and `show`: tokens by selection, resumption, models that route whole samples."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ports.common.layers.moe_decoder import abstract
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.features import Prompt
from ports.common.moe_lm.model import RoutedLM
from ports.olmoe.config import tiny
from r2t2_jax.cli.main import main
from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routes.recording import Recording
from tests.toy_port import ToyEmbedder, make_samples


class Letters:
    """A processor without a tokenizer: a token is a letter's number, answers are numbers."""

    def prepare(self, params, samples):
        length = 24
        texts = [[ord(letter) % 50 + 3 for letter in sample.question] for sample in samples]
        rows = np.stack([np.pad(text, (length - len(text), 0)) for text in texts]).astype(np.int32)
        mask = np.stack([np.arange(length) >= length - len(text) for text in texts])
        axis = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        positions = np.broadcast_to(axis[:, None], (len(texts), 3, length))
        return Prompt(rows, mask, positions, np.zeros_like(mask), mask.sum(axis=1))

    def answer_ids(self, answers):
        raise NotImplementedError

    def decode(self, tokens):
        return [" ".join(map(str, row)) for row in np.asarray(tokens).tolist()]


def language_model() -> Port:
    """A language model of two layers with random weights."""
    config = replace(tiny(), layers=2)
    graph, shapes = abstract(config)
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), shapes)
    model = RoutedLM(config, RoutingScope((1,), "last_prompt", config.experts), (1,), graph)
    return Port("letters", model, params, Letters(), ToyEmbedder(), "letters-1", max_new_tokens=3)


@pytest.fixture(scope="module")
def port():
    return language_model()


def test_selections_are_parts_of_all_tokens_and_answers_are_those_of_generate(port):
    samples = make_samples(2, seed=0, hinted=0.5)
    whole = record_samples(port, samples, "toy", "all", False, 3)
    features, _ = encode_batch(port.params, port.processor.prepare(port.params, samples), model=port.model)
    answers = generate_batch(port, features, None)
    assert [each.prediction for each in whole] == port.processor.decode(answers)
    count = len(samples[0].question)
    first = whole[0]
    assert first.kinds[:count] == ["text"] * count
    assert set(first.kinds[count:]) == {"answer"}
    assert first.positions.tolist() == list(range(len(first.kinds)))
    assert first.experts.shape == (len(first.kinds), 2, port.model.config.top_k)
    parts = {"last": slice(count - 1, count), "prompt": slice(count), "answer": slice(count, None)}
    for tokens, part in parts.items():
        (selected, _) = record_samples(port, samples, "toy", tokens, False, 3)
        for name in ("tokens", "positions", "experts", "weights"):
            np.testing.assert_array_equal(getattr(selected, name), getattr(first, name)[part])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording of the pocket model, which routes whole samples."""
    out = tmp_path_factory.mktemp("routes") / "pocket"
    assert main(arguments(out)) == 0
    return out


def arguments(out):
    data = ["--data", "pocket", "--limit", "5", "--batch-size", "2"]
    return ["routes", "record", "--model", "pocket:narrow", *data, "--out", str(out)]


def test_a_recording_resumes_with_equal_bytes(recorded, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(recorded, out)
    (out / "summary.json").unlink()
    (out / "batches" / "00001.parquet").unlink()
    assert main(arguments(out)) == 0
    for name in ("summary.json", "batches/00001.parquet"):
        assert (out / name).read_bytes() == (recorded / name).read_bytes()


def test_a_model_that_routes_whole_samples_gives_its_weights_in_order(recorded, capsys):
    recording = Recording.open(recorded)
    samples = list(recording.samples())
    assert (recording.facts.samples, recording.facts.kinds, recording.facts.top_k) == (5, {"sample": 5}, 6)
    for sample in samples:
        assert sorted(sample.experts[0, 0].tolist()) == list(range(6))
        assert (np.diff(sample.weights.astype(float), axis=-1) <= 0).all()
        np.testing.assert_allclose(sample.weights.sum(axis=-1), 1, atol=2e-3)
    assert main(["routes", "show", str(recorded), samples[1].id]) == 0
    shown = capsys.readouterr().out
    best = recording.facts.experts[samples[1].experts[0, 0, 0]]
    assert f"sample {samples[1].id} of pocket" in shown
    assert f"mixer0  {best} {samples[1].weights[0, 0, 0]:.3f}" in shown
    assert main(["routes", "show", str(recorded), samples[1].id, "--json"]) == 0
    (token,) = json.loads(capsys.readouterr().out)["tokens"]
    assert (token["kind"], token["position"], token["token"]) == ("sample", 0, None)
    assert token["layers"]["mixer0"]["experts"][0] == best
    assert token["layers"]["mixer1"]["weights"] == samples[1].weights[0, 1].tolist()
    table = pq.read_table(recorded / "batches" / "00000.parquet")
    assert table["weights"].to_pylist()[0] == [[row.tolist() for row in samples[0].weights[0]]]


def test_errors_are_one_line(recorded, tmp_path, capsys):
    assert main(["routes", "show", str(recorded), "nowhere"]) == 2
    assert "has no sample 'nowhere'; the first is 'pocket-test" in capsys.readouterr().err
    assert main([*arguments(tmp_path / "logits"), "--logits"]) == 2
    assert "routes whole samples and returns no gate logits" in capsys.readouterr().err
    assert not (tmp_path / "logits").exists()
    assert main(["routes", "export", "--format", "vllm", str(recorded), "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "holds routes of whole samples; --format vllm needs those of --tokens all" in capsys.readouterr().err
    assert main(["routes", "show", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("tokens", [-1, -1], r"has tokens of int32 \(2,\), not \(1,\)"),
        ("kinds", ["word"], "has tokens of unknown kinds"),
        ("experts", [[[9] * 6] * 2], "names experts beyond the 6 of the model"),
        ("weights", [[[float("nan")] * 6] * 2], "has weights that are NaN, infinite or negative"),
        (None, None, "5 samples, and the batches hold 3"),
    ],
)
def test_damaged_rows_are_named(recorded, tmp_path, column, values, problem):
    folder = tmp_path / "damaged"
    shutil.copytree(recorded, folder)
    path = folder / "batches" / "00000.parquet"
    table = pq.read_table(path)
    if column is None:
        table = table.slice(0, 0)
    else:
        place = table.column_names.index(column)
        changed = pa.array([values] * len(table), table[column].type)
        table = table.set_column(place, column, changed)
    pq.write_table(table, path)
    with pytest.raises(R2T2Error, match=problem):
        list(Recording.open(folder).samples())
