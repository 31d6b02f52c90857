"""How much fits in memory: against a direct analysis of the program, monotone, and said plainly where nothing does."""

import itertools

import jax
import numpy as np
import pytest

from r2t2_jax.costs import memory as fitting
from r2t2_jax.costs.memory import Fit, Memory, fit
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.methods import strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.runtime.memory import tree_bytes
from tests.toy import MODEL, references_for, toy_bank, toy_params, toy_queries
from tests.toy_shapes import shapes

NGD = strategy("ngd", Preset.from_mapping({"neighborhood.k": 3, "descent.steps": 2}))

MEMORY = Memory(shapes(None, None, None), NGD)  # remembers what it compiled
LEAST = MEMORY.footprint(1, 1).total


def found(available: int) -> Fit:
    return fit(MEMORY, available, neighbors=3)


def test_it_agrees_with_the_analysis_of_the_program_on_real_arrays():
    queries, embeddings = toy_queries(5)
    queries = without_labels(queries)
    references = references_for(NGD, toy_bank(), embeddings)
    arguments = (toy_params(), queries, references, sample_keys(0, np.arange(5)))
    lowered = jax.jit(lambda *args: reroute_batch(NGD, MODEL, *args)).lower(*arguments)
    analysis = lowered.compile().memory_analysis()
    footprint = MEMORY.footprint(5, 3)
    assert footprint.activations == analysis.temp_size_in_bytes
    held = footprint.parameters + footprint.queries + footprint.references
    spared = tree_bytes(references.bank_routing)  # which descent does not read
    results = jax.eval_shape(lambda *args: reroute_batch(NGD, MODEL, *args), *arguments)
    assert held == tree_bytes((arguments, results)) - spared
    # Arguments that a program does not read are not counted by XLA, yet lie in memory.
    assert 0.5 * held < analysis.argument_size_in_bytes + analysis.output_size_in_bytes <= held + 512


def without_labels(queries):
    return type(queries)(queries.features, queries.routing, queries.support)


@pytest.mark.slow  # compiles many times
def test_more_memory_holds_no_fewer_and_more_neighbors_take_no_less():
    results = [found(int(LEAST * factor)) for factor in (1, 2, 7)]
    for least, most in itertools.pairwise(results):
        assert least.most_neighbors.neighbors <= most.most_neighbors.neighbors
        assert least.most_samples.samples * (least.most_samples.neighbors == 3) <= most.most_samples.samples
    assert results[0].most_neighbors.neighbors < results[-1].most_neighbors.neighbors
    totals = [MEMORY.footprint(1, k).total for k in (1, 3, 6, 12)]
    assert totals == sorted(set(totals))


@pytest.mark.parametrize("factor", [1, 7])
def test_what_is_said_to_fit_was_compiled_and_fits_and_one_more_does_not(factor: int):
    available = factor * LEAST
    result = found(available)
    assert result.most_neighbors.compiled and result.most_samples.compiled
    assert result.most_neighbors.total <= available and result.most_samples.total <= available
    assert MEMORY.footprint(1, result.most_neighbors.neighbors + 1).total > available
    one_more = result.most_samples.samples + 1, result.most_samples.neighbors
    assert MEMORY.footprint(*one_more).total > available


def test_the_search_ends_where_nobody_asks_for_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fitting, "MOST_NEIGHBORS", 6)
    monkeypatch.setattr(fitting, "MOST_SAMPLES", 9)
    result = found(10**9)
    assert (result.most_neighbors.neighbors, result.most_samples.samples) == (6, 9)


def test_what_does_not_fit_is_refused_with_what_takes_the_memory():
    with pytest.raises(R2T2Error, match=r"toy does not fit into .*: one sample with one neighbour takes .*activations"):
        found(LEAST - 1)
    with pytest.raises(R2T2Error, match="its parameters alone take"):
        found(tree_bytes(MEMORY.shapes.params))


def test_a_compiler_that_says_nothing_about_memory_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda _: None)
    with pytest.raises(R2T2Error, match="compiler for cpu tells nothing about memory"):
        Memory(shapes(None, None, None), NGD).footprint(1, 1)
