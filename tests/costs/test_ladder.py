"""Every row of the cost ledger against a count over the program of that very method."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from r2t2_jax.contract import LossModel, Query, References
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.ladder import Measure, Scale, ledger
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_sample
from r2t2_jax.methods import strategy
from r2t2_jax.plugins import load_shapes

SCALE = Scale(neighbors=3, steps=4, points=7, references=50, line_evaluations=6, embedding=10)
PRESET = Preset.from_mapping(
    {"neighborhood.k": 3, "descent.steps": 4, "line_search.evaluations": 6, "mode.k": 3, "atlas.k": 3}
)
MODELS = [
    "pocket",
    pytest.param("moai:tiny", marks=pytest.mark.slow),
    pytest.param("mova:tiny", marks=pytest.mark.slow),
]
FULL = [pytest.param(name, marks=pytest.mark.slow) for name in ("moai:7b", "mova:8b")]


@pytest.fixture(scope="module", params=[*MODELS, *FULL])
def case(request):
    shapes = load_shapes(request.param)
    return shapes, ledger(shapes, SCALE), Measure(shapes)


def shape(*axes):
    return jax.ShapeDtypeStruct(axes, jnp.float32)


def walk(name, shapes, model, params, features):
    """FLOPs of re-routing one sample."""
    layers, experts = shapes.model.spec.shape
    k, n, points = SCALE.neighbors, SCALE.references, SCALE.points
    near = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((k, *leaf.shape), leaf.dtype), (features, shapes.answer))
    query = Query(features, shape(layers, experts), jax.ShapeDtypeStruct((layers, experts), bool), shapes.answer)
    references = References(
        shape(n, layers, experts), *near, shape(k, layers, experts), shape(k), shape(points, layers, experts),
        shape(k, points),
    )  # fmt: skip
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = jax.make_jaxpr(partial(reroute_sample, strategy(name, PRESET), model))
    return count_flops(program(params, query, references, key))


def of_rung(shapes, rung, measure):
    """Model, parameters and features of which a rung's loss is the loss."""

    def loss(params, features, r, answer):
        return rung.loss(r, params, features, answer)

    return LossModel(loss, shapes.model.spec), rung.params, measure.kept(rung)


def test_every_method_costs_its_passes_and_what_its_program_counts(case):
    shapes, found, measure = case
    costs = shapes.costs
    passes = costs.prepare_flops + costs.encode_flops + costs.route_flops + costs.rerouted_loss_flops
    for row in found.rows[2:]:
        own = shapes.model, shapes.params, shapes.features
        # The line search asks for values alone, of the port's own loss; descent goes by the cheapest rung.
        subject = of_rung(shapes, costs.ladder[-1], measure) if row.method == "oracle" else own
        assert row.flops == passes + walk(row.method, shapes, *subject), row.method


def test_every_rung_of_ngd_costs_what_its_program_counts(case):
    shapes, found, measure = case
    costs = shapes.costs
    passes = costs.prepare_flops + costs.encode_flops + costs.route_flops + costs.rerouted_loss_flops
    for row, rung in zip(found.rungs, costs.ladder, strict=True):
        if rung.every_gradient:  # descent itself never asks for the weights' gradients
            continue
        once = 0 if rung.stored else SCALE.neighbors * rung.once_flops
        assert row.flops == passes + once + walk("ngd", shapes, *of_rung(shapes, rung, measure)), row.method
    dearest, cheapest = found.rungs[0], found.rungs[-1]
    assert dearest.flops > cheapest.flops
    assert found.times_base(found.base) == 1


def test_the_atlas_is_paid_back_after_the_cases_it_says(case):
    shapes, found, _ = case
    costs, offline = shapes.costs, found.offline
    ngd, atlas = found.rungs[-1].flops, found.rows[-1].flops
    made = SCALE.references * (offline.per_reference - costs.ladder[-1].once_flops) + offline.choosing
    assert offline.break_even == math.ceil(made / (ngd - atlas))


def test_more_of_everything_costs_more():
    shapes = load_shapes("pocket")
    few, many = ledger(shapes, SCALE), ledger(shapes, dataclasses.replace(SCALE, neighbors=6))
    assert many.rungs[-1].flops - many.rows[-1].flops > 1.9 * (few.rungs[-1].flops - few.rows[-1].flops)
    assert many.base == few.base
    # bytes of a reference for the atlas: an embedding and a byte a point
    assert few.rows[-1].stored == 4 * 10 + 7


def test_what_makes_no_sense_is_refused():
    with pytest.raises(R2T2Error, match="a cost with steps 0; it must be at least 1"):
        Scale(steps=0)
    with pytest.raises(R2T2Error, match="toy says nothing of its costs"):
        ledger(load_shapes("tests.toy_shapes:shapes"), SCALE)
