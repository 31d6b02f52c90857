"""The cost of every method against its passes by hand, and against the program of descent on each variant."""

import dataclasses
import math

import jax
import pytest

from r2t2_jax.costs.ladder import CostSettings, VariantTraces, cost_table, count_passes
from r2t2_jax.costs.prediction import CostPrediction, abstract_batch
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load_shapes

SETTINGS = CostSettings(neighbors=3, steps=4, points=7, references=50, line_evaluations=6, embedding=10)
K, S, G, N, LINE, M = dataclasses.astuple(SETTINGS)
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("moai:tiny", "mova:tiny", "moai:7b", "mova:8b")]


@pytest.fixture(scope="module", params=["pocket", *SLOW])
def counted(request):
    shapes = load_shapes(request.param)
    return shapes, cost_table(shapes, SETTINGS), count_passes(shapes), VariantTraces(shapes)


def test_every_method_costs_its_passes_and_its_sums(counted):
    shapes, table, passes, traces = counted
    layers, experts = shapes.model.spec.shape
    fixed, mean = passes.own + passes.route + passes.rerouted_loss, 2 * K * layers * experts
    step = traces.step_flops(shapes.costs.variants[-1])
    expected = {
        "base": (1, passes.own + passes.answer),
        "mode_finding": (2, fixed + 2 * mean),
        "kernel_regression": (2, fixed + mean),
        "kernel_regression_alpha": (LINE * K + 2, fixed + mean + LINE * K * passes.rerouted_loss),
        "oracle": (2 * S + 2, fixed + S * step),
        "atlas": (2, fixed + 2 * K * G + 2 * G * layers * experts),
    }
    assert {row.method: (row.evaluations, row.flops) for row in table.rows[1:]} == expected
    assert table.times_base(table.base) == 1
    assert table.parts.total() + passes.first_pass == table.base.flops


def test_every_variant_costs_what_the_program_of_descent_costs_on_it(counted):
    shapes, table, passes, traces = counted
    ngd = strategy("ngd", Preset.from_mapping({"neighborhood.k": K, "descent.steps": S}))
    fixed = passes.own + passes.route + passes.rerouted_loss
    for row, variant in zip(table.variants, shapes.costs.variants, strict=True):
        if variant.every_gradient:  # descent never computes the gradients of the weights
            continue
        variant_shapes = dataclasses.replace(shapes, features=traces.kept(variant))
        batch = abstract_batch(variant_shapes, ngd)
        cost = CostPrediction(ngd, traces.loss_model(variant), variant.params, batch).cost
        once = 0 if variant.stored else K * traces.once_flops(variant)
        assert (row.evaluations, row.flops) == (cost.evaluations, fixed + once + cost.flops), row.method
    assert table.variants[0].flops > table.variants[-1].flops


def test_the_atlas_is_paid_back_after_the_stated_number_of_samples(counted):
    shapes, table, _, traces = counted
    building = table.building
    once = traces.once_flops(shapes.costs.variants[-1])
    spent = N * (building.per_reference - once) + building.choosing
    assert building.break_even == math.ceil(spent / (table.variants[-1].flops - table.rows[-1].flops))


def test_more_neighbors_cost_more_and_the_base_stays_the_same():
    shapes = load_shapes("pocket")
    few, many = cost_table(shapes, SETTINGS), cost_table(shapes, dataclasses.replace(SETTINGS, neighbors=6))
    descents = [table.variants[-1].flops - table.rows[-1].flops for table in (few, many)]
    assert descents[1] > 1.9 * descents[0]
    assert many.base == few.base
    # bytes of a reference for the atlas: an embedding, and one byte per point
    assert few.rows[-1].stored == 4 * M + G


def test_invalid_settings_and_models_without_cost_functions_are_refused():
    with pytest.raises(R2T2Error, match="a cost with steps 0; it must be at least 1"):
        CostSettings(steps=0)
    with pytest.raises(R2T2Error, match="toy has no cost functions"):
        cost_table(load_shapes("tests.toy_shapes:shapes"), SETTINGS)


def test_a_prediction_takes_arrays_and_shapes_alike():
    shapes = load_shapes("pocket")
    ngd = strategy("ngd", Preset.from_mapping({"neighborhood.k": 2, "descent.steps": 1}))
    batch = abstract_batch(shapes, ngd, samples=3, labels=False)
    arrays = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), (batch.queries, batch.references))
    keys = jax.random.split(jax.random.key(0), 3)
    costs = [
        CostPrediction(ngd, shapes.model, shapes.params, inputs).cost for inputs in (batch, type(batch)(*arrays, keys))
    ]
    assert costs[0] == costs[1]
