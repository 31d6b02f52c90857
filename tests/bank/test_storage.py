"""Banks on disk: reading back, reading with other tools, and errors."""

import dataclasses
import hashlib
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r2t2_jax.bank import Fingerprints, ReferenceBank
from r2t2_jax.bank import manifest as digests
from r2t2_jax.bank.concatenate import concatenate
from r2t2_jax.bank.records import Records
from r2t2_jax.bank.storage import open_files
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.retrieval.neighbors import Neighbors
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.checks import check_weights
from tests.toy import MODEL, toy_bank

RIGHT = np.arange(12) % 3 != 1


def described(count: int = 12, seed: int = 1) -> ReferenceBank:
    """The toy bank, two of three answered correctly, with records."""
    return dataclasses.replace(
        toy_bank(count, seed),
        records=[{"id": f"{seed}-{i}", "question": f"how many {i}?", "category": "ab"[i % 2]} for i in range(count)],
        correct=np.arange(count) % 3 != 1,
        model_fingerprint="toy@1",
        embedder_fingerprint="words@1",
        processing_fingerprint="plain@1",
        spec=MODEL.spec,
    )


@pytest.fixture
def path(tmp_path):
    described().save(tmp_path / "bank")
    return tmp_path / "bank"


def same_arrays(bank: ReferenceBank, other: ReferenceBank) -> bool:
    return all(np.array_equal(getattr(bank, name), getattr(other, name)) for name in ("embeddings", "routing", "right"))


def test_a_saved_bank_is_read_back(path):
    bank, opened = described(), ReferenceBank.open(path)
    assert same_arrays(bank, opened)
    assert isinstance(opened.embeddings, np.memmap)
    assert (opened.fingerprints, opened.spec, len(opened)) == (bank.fingerprints, MODEL.spec, 12)
    assert [record["question"] for record in opened.records] == [record["question"] for record in bank.records]
    assert opened.records[-1]["id"] == "1-11"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_embeddings_are_stored_as_float32(tmp_path, dtype):
    half = dataclasses.replace(described(), embeddings=jnp.asarray(described().embeddings, dtype))
    half.save(tmp_path / "half")
    opened = ReferenceBank.open(tmp_path / "half")
    assert opened.embeddings.dtype == np.float32
    np.testing.assert_array_equal(opened.embeddings, np.asarray(half.embeddings, np.float32))
    expected = half.index().search(np.asarray(half.embeddings), 4)
    np.testing.assert_array_equal(opened.index().search(opened.embeddings, 4).indices, expected.indices)


def test_numpy_pyarrow_and_json_read_the_files_directly(path):
    bank = described()
    np.testing.assert_array_equal(np.load(path / "embeddings.npy"), bank.embeddings)
    np.testing.assert_array_equal(np.load(path / "routing.npy"), bank.routing)
    assert pq.read_table(path / "records.parquet").column("correct").to_pylist() == RIGHT.tolist()
    manifest = json.loads((path / "bank.json").read_text())
    assert (manifest["schema"], manifest["rows"], manifest["correct"]) == (1, 12, 8)
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == entry["sha256"]


def test_equal_banks_are_equal_bytes(path, tmp_path):
    described().save(tmp_path / "again")
    assert {file.name: file.read_bytes() for file in path.glob("*.*")} == {
        file.name: file.read_bytes() for file in (tmp_path / "again").glob("*.*")
    }


def test_stored_features_are_returned_by_row(path):
    bank = described().only_correct()
    opened = ReferenceBank.open(path).with_stored_samples(bank.features, bank.answers).only_correct()
    indices = np.array([[0, 3], [7, 7]])
    neighbors = Neighbors(indices, np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2), bool))
    for a, b in zip(
        jax.tree.leaves(bank.references(neighbors, Gaussian())),
        jax.tree.leaves(opened.references(neighbors, Gaussian())),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_without_a_model_there_are_no_features(path):
    with pytest.raises(R2T2Error, match="has no features of its references; give it a model"):
        ReferenceBank.open(path).samples(np.array([0]))
    with pytest.raises(R2T2Error, match=r"stores the leaves \['gate'\] \['x'\]; this model has \['y'\]"):
        ReferenceBank.open(path).with_stored_samples({"y": 0}, {})


def test_wrongly_answered_references_are_not_returned(path):
    bank = ReferenceBank.open(path)
    with pytest.raises(R2T2Error, match="4 of 12 references are answered wrongly"):
        bank.references()
    np.testing.assert_array_equal(bank.only_correct().references().bank_routing, bank.routing[RIGHT])


def test_filter_and_subsample(path):
    bank = ReferenceBank.open(path)
    part = bank.filter(lambda record: record["category"] == "b")
    assert [record["id"] for record in part.records] == [f"1-{i}" for i in range(1, 12, 2)]
    np.testing.assert_array_equal(part.embeddings, bank.embeddings[1::2])
    few = bank.subsample(5, seed=3)
    numbers = [int(record["id"].split("-")[1]) for record in few.records]
    assert len(few) == 5 and numbers == sorted(set(numbers))
    np.testing.assert_array_equal(few.routing, bank.routing[numbers])
    assert bank.subsample(5, seed=3).records[0]["id"] == few.records[0]["id"]
    assert bank.subsample(12) is bank
    with pytest.raises(R2T2Error, match="empty reference set"):
        bank.filter(lambda record: False)


def test_selected_rows_can_be_saved(path, tmp_path):
    ReferenceBank.open(path).only_correct().save(tmp_path / "part")
    part = ReferenceBank.open(tmp_path / "part")
    assert len(part) == 8 and part.right.all()
    assert [record["id"] for record in part.records] == [f"1-{i}" for i in range(12) if RIGHT[i]]


def test_concatenated_banks_have_the_rows_of_both():
    first, second = described(), described(7, seed=2)
    both = concatenate([first, second])
    assert [record["id"] for record in both.records] == [f"1-{i}" for i in range(12)] + [f"2-{i}" for i in range(7)]
    np.testing.assert_array_equal(both.right, np.concatenate([first.right, second.right]))
    features, _ = both.samples(np.array([13, 0]))
    np.testing.assert_array_equal(features["x"], [second.features["x"][1], first.features["x"][0]])


def test_readers_of_concatenated_banks_keep_the_order(path, tmp_path):
    described(7, seed=2).save(tmp_path / "second")
    trees = described().features, described().answers
    opened = [ReferenceBank.open(folder).with_stored_samples(*trees) for folder in (path, tmp_path / "second")]
    rows = np.array([18, 3, 12, 3, 0])
    expected = concatenate([described(), described(7, seed=2)]).samples(rows)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(concatenate(opened).samples(rows)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_banks_of_different_models_cannot_be_concatenated():
    other = dataclasses.replace(described(), model_fingerprint="toy@2")
    with pytest.raises(R2T2Error, match="model 'toy@2', this is model 'toy@1'"):
        concatenate([described(), other])


@pytest.mark.parametrize("name", ["model", "embedder", "processing"])
def test_another_fingerprint_is_refused_with_both_named(path, name):
    own = getattr(described().fingerprints, name)
    with pytest.raises(R2T2Error, match=f"made with {name} '{own}', this is {name} 'other@9'"):
        ReferenceBank.open(path, Fingerprints(**{name: "other@9"}))
    ReferenceBank.open(path, Fingerprints(**{name: own}))


def edit(path, change):
    manifest = json.loads((path / "bank.json").read_text())
    change(manifest)
    (path / "bank.json").write_text(json.dumps(manifest))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (lambda path: (path / "bank.json").unlink(), "is not a bank: it has no bank.json"),
        (lambda path: (path / "bank.json").write_text("{"), "bank.json is damaged"),
        (lambda path: (path / "bank.json").write_text("[]"), "bank.json is damaged"),
        (lambda path: edit(path, lambda manifest: manifest.update(schema=2)), "schema version 2, this program reads 1"),
        (lambda path: edit(path, lambda manifest: manifest.update(rows=11)), "damaged or was edited"),
        (lambda path: edit(path, lambda manifest: manifest.pop("checksum")), "bank.json is damaged"),
        (lambda path: (path / "routing.npy").unlink(), "routing.npy is missing: the bank is incomplete"),
        (lambda path: os.truncate(path / "embeddings.npy", 300), "embeddings.npy has 300 bytes, .* were written"),
        (lambda path: flip(path / "embeddings.npy"), "embeddings.npy is damaged: its checksum"),
        (lambda path: flip(path / "records.parquet"), "records.parquet is damaged: its checksum"),
        (lambda path: flip(path / "features" / "00.npy"), "00.npy is damaged: its checksum"),
    ],
)
def test_incomplete_and_damaged_banks_are_refused(path, damage, cause):
    damage(path)
    with pytest.raises(R2T2Error, match=cause):
        ReferenceBank.open(path)


def test_a_full_check_finds_damage_that_the_quick_check_misses(path, monkeypatch):
    monkeypatch.setattr(digests, "WHOLE", 0)
    monkeypatch.setattr(digests, "BLOCK", 8)
    monkeypatch.setattr(digests, "BLOCKS", 2)
    described().save(path)
    content = bytearray((path / "embeddings.npy").read_bytes())
    content[150] ^= 1  # beyond the header, between the blocks at 0, 204 and 408
    (path / "embeddings.npy").write_bytes(content)
    ReferenceBank.open(path)
    with pytest.raises(R2T2Error, match=r"embeddings\.npy is damaged"):
        open_files(path, whole=True)


def test_a_folder_that_is_not_a_bank_is_not_replaced(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("text")
    with pytest.raises(R2T2Error, match="exists and is not a bank"):
        described().save(tmp_path / "letters")
    assert [file.name for file in tmp_path.iterdir()] == ["letters"]


def test_a_failed_save_leaves_the_earlier_bank(path, monkeypatch):
    monkeypatch.setattr("r2t2_jax.bank.storage.digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        described(7, seed=2).save(path)
    assert len(ReferenceBank.open(path)) == 12
    assert [file.name for file in path.parent.iterdir()] == ["bank"]


def test_a_sample_without_a_chosen_expert_has_weights_of_zero() -> None:
    """In every layer; zeros in a single layer are no weights of a model."""
    spec = RoutingSpec(("left", "right"), 2)
    check_weights("routing.npy", np.zeros((1, 2, 2)), spec)
    with pytest.raises(R2T2Error, match=r"all zero .* in row 1, layer 0"):
        check_weights("routing.npy", np.array([np.zeros((2, 2)), [[0, 0], [0.5, 0.5]]]), spec)


def test_the_run_of_another_command_is_no_unfinished_bank(tmp_path):
    (tmp_path / "run.json").write_text('{"command": "eval"}')
    with pytest.raises(R2T2Error, match="holds a run of r2t2 eval, not a bank"):
        ReferenceBank.open(tmp_path)


def test_a_record_is_decoded_once_while_it_is_recent(monkeypatch) -> None:
    records = Records(pa.table({"id": [f"reference-{i}" for i in range(4)]}))
    monkeypatch.setattr("r2t2_jax.bank.records.RECENT", 2)
    assert records[1] is records[1] is records[-3]
    assert [records[i]["id"] for i in (0, 3, 1)] == ["reference-0", "reference-3", "reference-1"]
    with pytest.raises(IndexError):
        records[4]
