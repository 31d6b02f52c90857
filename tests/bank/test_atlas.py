"""The loss atlas on disk: reading back, and errors."""

import dataclasses
import json

import numpy as np
import pytest

from r2t2_jax.bank.atlas import open_atlas, quantize, save_atlas
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.retrieval.neighbors import Neighbors
from r2t2_jax.routing import RoutingSpec
from tests.toy import MODEL, toy_bank, with_atlas

ATLAS = with_atlas(toy_bank()).atlas


def test_a_saved_atlas_is_read_back(tmp_path):
    save_atlas(ATLAS, tmp_path / "atlas", {"points": 3})
    atlas = open_atlas(tmp_path / "atlas")
    for name in ("points", "losses", "slopes"):
        np.testing.assert_array_equal(getattr(atlas, name), getattr(ATLAS, name))
    assert (atlas.ids, atlas.experts, atlas.model_fingerprint) == (ATLAS.ids, ATLAS.experts, ATLAS.model_fingerprint)
    assert isinstance(atlas.losses, np.memmap)
    assert atlas.losses.dtype == np.uint8
    atlas.check("toy", MODEL.spec)


def test_losses_are_exact_to_half_a_step():
    losses = np.linspace(0, 1, 50, dtype=np.float32).reshape(5, 10)
    atlas = dataclasses.replace(
        ATLAS, losses=quantize(losses, list("abcde")), points=np.zeros((10, 2, 4)), slopes=None, ids=tuple("abcde")
    )
    np.testing.assert_allclose(atlas.rows(np.arange(5)), losses, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(atlas.mean(), losses.mean(axis=0), atol=0.5 / 255)


def test_cross_entropies_come_back_as_near_as_eight_bits_tell():
    exact = np.geomspace(1e-4, 30, 300, dtype=np.float32)[:, None]
    ids = [str(i) for i in range(300)]
    atlas = dataclasses.replace(
        ATLAS, losses=quantize(-np.expm1(-exact), ids), points=np.zeros((1, 2, 4)), slopes=None, ids=tuple(ids)
    )
    read = atlas.rows(np.arange(300), "cross_entropy")
    assert read.dtype == np.float32
    np.testing.assert_allclose(-np.expm1(-read), -np.expm1(-exact), atol=0.5 / 255 + 1e-6)
    assert (np.diff(read[:, 0]) >= 0).all()
    np.testing.assert_allclose(read[-1], np.log(510), rtol=1e-6)  # half a step below one, where l would be infinite
    np.testing.assert_allclose(atlas.mean("cross_entropy"), read.mean(axis=0, dtype=np.float64), rtol=1e-6)
    between = (exact > 0.1) & (exact < 3)
    np.testing.assert_allclose(read[between], exact[between], rtol=0.05)


def test_rows_are_selected_by_id():
    selected = ATLAS.of(["r7", "r2"])
    np.testing.assert_array_equal(selected.losses, ATLAS.losses[[7, 2]])
    np.testing.assert_array_equal(selected.slopes, ATLAS.slopes[[7, 2]])
    with pytest.raises(R2T2Error, match="no row for 1 of 2 references, first 'new'"):
        ATLAS.of(["r1", "new"])


def test_nan_is_named_by_row():
    losses = np.zeros((3, 2))
    losses[1, 1] = np.nan
    with pytest.raises(R2T2Error, match=r"reference 'b' \(row 1\) is NaN at point 1"):
        quantize(losses, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("model", "spec", "cause"),
    [
        ("toy:other gate", MODEL.spec, "built for toy, this is toy:other gate"),
        ("toy", RoutingSpec(("a", "b", "c", "x"), 2), "this model has 2 layers of a, b, c, x"),
        ("toy", RoutingSpec(("a", "b", "c", "d"), 3), "this model has 3 layers"),
    ],
)
def test_another_model_gate_or_spec_is_refused(model, spec, cause):
    with pytest.raises(R2T2Error, match=cause):
        ATLAS.check(model, spec)


def spoil_table(folder):
    (folder / "losses.npy").write_bytes((folder / "losses.npy").read_bytes()[:-1])


def spoil_schema(folder):
    described = json.loads((folder / "atlas.json").read_text())
    (folder / "atlas.json").write_text(json.dumps(described | {"schema": 99}))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (spoil_table, "is truncated or was replaced"),
        (spoil_schema, "schema version 99"),
        (lambda folder: (folder / "atlas.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "atlas.json").unlink(), "holds no loss atlas"),
        (lambda folder: (folder / "points.npy").unlink(), "points.npy is missing"),
    ],
)
def test_a_damaged_atlas_is_named(tmp_path, spoil, cause):
    save_atlas(ATLAS, tmp_path / "atlas", {})
    spoil(tmp_path / "atlas")
    with pytest.raises(R2T2Error, match=cause):
        open_atlas(tmp_path / "atlas")


def test_a_bank_returns_its_atlas_rows_and_refuses_an_atlas_of_another_size():
    bank = with_atlas(toy_bank())
    indices = np.array([[3, 1], [0, 11]])
    distances = np.array([[0.5, 1.0], [0.2, 0.2]], np.float32)
    references = bank.atlas_references(
        Neighbors(indices, distances, 1 - distances**2 / 2, np.array([[True, False], [True, True]])), Gaussian()
    )
    np.testing.assert_allclose(references.point_losses, ATLAS.losses[indices] / 255, rtol=1e-6)
    np.testing.assert_array_equal(references.slopes, np.float32(ATLAS.slopes[indices]))
    assert references.features is None
    assert references.weights[0, 1] == 0
    selected = bank.take(np.array([5, 4]))
    np.testing.assert_array_equal(selected.atlas.losses, ATLAS.losses[[5, 4]])
    with pytest.raises(R2T2Error, match="12 rows for 11 references"):
        dataclasses.replace(toy_bank(11), atlas=ATLAS)
    with pytest.raises(R2T2Error, match="r2t2 bank atlas"):
        toy_bank().atlas_references_from(np.zeros((2, 3)))
