"""Sizes that fit in memory: predictions equal the analysis of the program; what does not fit is refused."""

import itertools

import jax
import numpy as np
import pytest

from r2t2_jax.costs import memory as memory_module
from r2t2_jax.costs.memory import LargestSizes, MemoryEstimator, largest_batch, largest_sizes, largest_vmap_size
from r2t2_jax.costs.prediction import MemoryUse
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.runtime.pytrees import tree_bytes
from tests.toy import MODEL, references_for, toy_bank, toy_params, toy_queries
from tests.toy_shapes import shapes

NGD = strategy("ngd", Preset.from_mapping({"neighborhood.k": 3, "descent.steps": 2}))

ESTIMATOR = MemoryEstimator(shapes(None, None, None), NGD)  # compiles each size once
LEAST = ESTIMATOR.compiled(1, 1).total


def sizes_within(available: int) -> LargestSizes:
    return largest_sizes(ESTIMATOR, available, neighbors=3)


def test_a_prediction_equals_the_analysis_of_the_program_on_real_arrays():
    queries, embeddings = toy_queries(5)
    queries = without_labels(queries)
    references = references_for(NGD, toy_bank(), embeddings)
    arguments = (toy_params(), queries, references, sample_keys(0, np.arange(5)))
    lowered = jax.jit(lambda *args: reroute_batch(NGD, MODEL, *args)).lower(*arguments)
    analysis = lowered.compile().memory_analysis()
    memory = ESTIMATOR.compiled(5, 3)
    assert memory.activations == analysis.temp_size_in_bytes
    held = memory.parameters + memory.queries + memory.references
    unread = tree_bytes(references.bank_routing)  # descent does not read it
    results = jax.eval_shape(lambda *args: reroute_batch(NGD, MODEL, *args), *arguments)
    assert held == tree_bytes((arguments, results)) - unread
    # Arguments that a program does not read are not counted by XLA, yet lie in memory.
    assert 0.5 * held < analysis.argument_size_in_bytes + analysis.output_size_in_bytes <= held + 512


def without_labels(queries):
    return type(queries)(queries.features, queries.routing, queries.support)


@pytest.mark.slow  # compiles many times
def test_more_memory_fits_more_and_more_neighbors_take_more():
    results = [sizes_within(int(LEAST * factor)) for factor in (1, 2, 7)]
    for least, most in itertools.pairwise(results):
        assert least.neighbors.neighbors <= most.neighbors.neighbors
        assert least.samples.samples * (least.samples.neighbors == 3) <= most.samples.samples
    assert results[0].neighbors.neighbors < results[-1].neighbors.neighbors
    totals = [ESTIMATOR.compiled(1, k).total for k in (1, 3, 6, 12)]
    assert totals == sorted(set(totals))


@pytest.mark.parametrize("factor", [1, 7])
def test_the_largest_sizes_were_compiled_and_fit_and_one_more_does_not(factor: int):
    available = factor * LEAST
    result = sizes_within(available)
    assert result.neighbors.compiled and result.samples.compiled
    assert result.neighbors.total <= available and result.samples.total <= available
    assert ESTIMATOR.compiled(1, result.neighbors.neighbors + 1).total > available
    one_more = result.samples.samples + 1, result.samples.neighbors
    assert ESTIMATOR.compiled(*one_more).total > available


def test_the_search_ends_at_its_limits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory_module, "MAX_NEIGHBORS", 6)
    monkeypatch.setattr(memory_module, "MAX_SAMPLES", 9)
    result = sizes_within(10**9)
    assert (result.neighbors.neighbors, result.samples.samples) == (6, 9)


def test_a_model_that_does_not_fit_is_refused_with_the_sizes_of_its_parts():
    with pytest.raises(R2T2Error, match=r"toy does not fit into .*: one sample with one neighbor takes .*activations"):
        sizes_within(LEAST - 1)
    with pytest.raises(R2T2Error, match="its parameters take"):
        sizes_within(tree_bytes(ESTIMATOR.shapes.params))


def test_a_compiler_that_reports_no_memory_use_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda _: None)
    with pytest.raises(R2T2Error, match="compiler for cpu reports no memory use"):
        MemoryEstimator(shapes(None, None, None), NGD).compiled(1, 1)


def of_activations(activations: int, vmap_size: int = 1, parameters: int = 0, per_sample: int = 0) -> MemoryUse:
    return MemoryUse(1, 1, parameters, per_sample, 0, activations, vmap_size)


@pytest.mark.parametrize(("available", "size"), [(10_000, 32), (4_000, 16), (1_200, 4), (10, 1)])
def test_the_batch_is_halved_until_it_fits(available: int, size: int):
    assert largest_batch(of_activations(500, parameters=100, per_sample=100), available, 32) == size


def test_the_compiled_memory_decides_and_not_the_proportional_estimate():
    taken = {8: 4_000, 4: 2_500, 2: 900}  # more than in proportion to the 400 of one
    measured = []

    def measure(vmap_size: int) -> MemoryUse:
        measured.append(vmap_size)
        return of_activations(taken[vmap_size], vmap_size)

    assert largest_vmap_size(of_activations(400), measure, 4_000, 32).vmap_size == 4
    assert measured == [8, 4]
    assert largest_vmap_size(of_activations(400), measure, 1_000, 32).vmap_size == 2
