"""The reference bank in memory: references of a batch, and errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import NearestNeighbors, Neighbors, sample_keys, select
from r2t2_jax.runtime.compilation_cache import COMPILED
from tests.toy import toy_bank, toy_queries

BANK = toy_bank()


def test_references_are_the_rows_of_the_neighbors_weighted_by_the_kernel():
    _, embeddings = toy_queries()
    neighbors = select(NearestNeighbors(3), ExactIndex.build(BANK.embeddings), embeddings, sample_keys(0, np.arange(5)))
    references = BANK.references(neighbors, Gaussian(0.5))
    for b, k in np.ndindex(5, 3):
        i = int(neighbors.indices[b, k])
        np.testing.assert_array_equal(references.features["x"][b, k], BANK.features["x"][i])
        np.testing.assert_array_equal(references.answers["tokens"][b, k], BANK.answers["tokens"][i])
        np.testing.assert_array_equal(references.routing[b, k], BANK.routing[i])
    np.testing.assert_allclose(references.weights, np.exp(-2 * np.asarray(neighbors.distances) ** 2), rtol=1e-5)
    np.testing.assert_array_equal(references.bank_routing, BANK.routing)


def test_without_neighbors_only_the_routing_of_the_bank_is_returned():
    references = BANK.references()
    assert len(jax.tree.leaves(references)) == 1
    np.testing.assert_array_equal(references.bank_routing, BANK.routing)


def broken(**changes):
    return dataclasses.replace(BANK, **changes)


def with_nan(array):
    array = np.array(array)
    array[4] = np.nan
    return array


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"features": {**BANK.features, "x": with_nan(BANK.features["x"])}}, r"features\['x'\] holds NaN .* row 4"),
        ({"embeddings": with_nan(BANK.embeddings)}, "embeddings holds NaN"),
        ({"routing": with_nan(BANK.routing)}, "routing holds NaN"),
        ({"embeddings": 2 * BANK.embeddings}, "must be unit vectors"),
        ({"features": {"x": BANK.features["x"][:7]}}, "its leading axis must count the 12 samples"),
        ({"answers": {"tokens": np.ones((3, 2), int)}}, r"answers\['tokens'\] has shape \(3, 2\)"),
        ({"routing": BANK.routing[:, 0]}, r"must be \[references, layers, experts\]"),
        ({"records": [{"id": "a"}]}, "1 records for 12 references"),
    ],
)
def test_broken_banks_are_refused(changes, cause):
    with pytest.raises(R2T2Error, match=cause):
        broken(**changes)


def test_an_empty_bank_is_refused():
    nothing = jax.tree.map(lambda leaf: leaf[:0], (BANK.features, BANK.answers, BANK.routing, BANK.embeddings))
    with pytest.raises(R2T2Error, match="answered no reference correctly"):
        ReferenceBank(*nothing)


def test_features_may_be_on_a_device():
    _, embeddings = toy_queries(2)
    placed = broken(**jax.tree.map(jnp.asarray, {"features": BANK.features, "answers": BANK.answers}))
    neighbors = select(NearestNeighbors(2), ExactIndex.build(BANK.embeddings), embeddings, sample_keys(0, np.arange(2)))
    host, device = (bank.references(neighbors, Gaussian()) for bank in (BANK, placed))
    for a, b in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_transfer_to_the_device_compiles_nothing():
    """`jnp.asarray` of an array compiles a program for each shape that it has not seen."""
    compiled = []

    def note(event, seconds, **metadata):
        if event == COMPILED:
            compiled.append(metadata.get("fun_name"))

    bank, rows = toy_bank(17), np.arange(77).reshape(11, 7) % 17  # shapes that no other test has
    neighbors = Neighbors(rows, *(np.ones(rows.shape, np.float32) for _ in range(2)), np.ones(rows.shape, bool))
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        references = bank.references(neighbors, Gaussian(0.5))
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(references))
    assert compiled == ["jit(kernel_weights)"]
