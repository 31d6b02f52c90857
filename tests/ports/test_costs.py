"""FLOPs of the ports' passes and of every variant of the gradient: counts equal recorded ones, and XLA's own.

That the variants of a port give the same gradient is tested with each port, in `test_savings.py`. The recorded numbers
were computed by hand-written formulas, so they do not depend on the counting code. From those of the pocket model two
differences by hand were subtracted: the gradient of values, which its mixers do not compute since routing weights
multiply the attention; and in the last block the keys and values of 19 tokens of width 64, in place of which three
queries and their results are projected (four heads, 16 tokens of the question):

    forward   2 (19 64 128 + 2 3 35 64) - 2 (2 3 64 64 + 2 12 19 64 + 2 3 16 64)                      = 218,368
    backward  2 (19 64 128 + 2 3 35 64 + 2 3 19 64) - 2 (2 3 64 64 + 2 12 19 64 + 2 3 16 64 + 24 19 64) = 174,592
"""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ports.pocket.config import PocketConfig
from ports.pocket.costs import variants as pocket_variants
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketAnswer, abstract, fake_inputs
from r2t2_jax.contract import ModelShapes
from r2t2_jax.costs.ladder import VariantTraces, count_passes
from r2t2_jax.plugins import load_shapes
from tests.flops_checks import flops_of

RECORDED = json.loads((Path(__file__).parents[1] / "costs" / "recorded_flops.json").read_text(encoding="utf-8"))


def names(*slow: str) -> list:
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in RECORDED]


@cache
def shapes_of(name):
    return load_shapes(name)


@pytest.mark.parametrize("name", names("moai:7b", "mova:8b"))
def test_passes_have_the_recorded_flops(name):
    passes, recorded = count_passes(shapes_of(name)), RECORDED[name]
    for part in ("prepare", "first_pass", "encode", "route", "answer", "rerouted_loss"):
        assert getattr(passes, part) == recorded[part], part


@pytest.mark.parametrize("name", names("moai:7b", "mova:8b", "moai:tiny", "mova:tiny"))
def test_variants_have_the_recorded_flops(name):
    shapes = shapes_of(name)
    traces = VariantTraces(shapes)
    counted = {
        variant.name: {"once": traces.once_flops(variant), "step": traces.step_flops(variant)}
        for variant in shapes.costs.variants
    }
    assert counted == RECORDED[name]["variants"]
    naive = shapes.costs.variants[0]
    assert flops_of(naive.loss, *traces.arguments(naive)) == RECORDED[name]["naive"]


def test_an_unrolled_model_has_the_flops_that_xla_counts():
    # XLA also counts elementwise operations: with these widths they are two percent.
    config = PocketConfig(512, width=256, hidden=1024, channel=128, key_width=128, expert_width=64, depth=2)
    graph, params = abstract(config)
    model = PocketModel(config, graph)
    variant = pocket_variants(model, params)[-1]
    answer = jax.eval_shape(lambda: PocketAnswer(jnp.zeros(3, jnp.int32), jnp.ones(3, bool)))
    inputs = jax.eval_shape(lambda: fake_inputs(config))
    shapes = ModelShapes("wide", model, params, jax.eval_shape(model.encode, params, inputs), answer)
    arguments = jax.ShapeDtypeStruct((2, 6), "float32"), params, shapes.features, answer
    for function in (variant.loss, jax.value_and_grad(variant.loss)):
        xla = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
        assert flops_of(function, *arguments) == pytest.approx(xla, rel=0.02)
