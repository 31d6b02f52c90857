"""MoAI's cheaper variants of the gradient, and the memory of its backward pass."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.extend import core

from ports.moai.costs import variants
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract
from ports.moai.params import merge_plora
from r2t2_jax.routing import Routing
from tests.flops_checks import check_variants
from tests.ports.moai.tiny import CONFIG, answer_of, draw_inputs, tiny

SMALL = dataclasses.replace(CONFIG, attention_block=6)  # 16 image tokens make three blocks


@pytest.mark.slow  # compiles every variant
def test_every_variant_gives_the_literal_gradient():
    params = tiny()[1]
    merged = merge_plora(CONFIG, params)[1]
    r = jax.random.dirichlet(jax.random.key(1), np.ones(3), (2, 2)).reshape(2, 6)
    factored = jax.tree.structure(params)
    check_variants(
        variants(SMALL),
        lambda variant: params if jax.tree.structure(variant.params) == factored else merged,
        draw_inputs(0),
        r,
        answer_of(5, 7, 2),
    )


@pytest.mark.parametrize("remat", ["none", "attention", "full"])
def test_the_forward_pass_keeps_no_copy_of_the_weights_for_the_backward_pass(remat):
    config = dataclasses.replace(CONFIG, remat=remat)
    graph, params = abstract(config)
    model = MoAIModel(config, graph)
    features = jax.eval_shape(model.encode, params, draw_inputs(0))

    def forward(r, params, features):
        return jax.tree.leaves(
            jax.vjp(lambda r: model.answer_loss(params, features, Routing(r), answer_of(5, 7)), r)[1]
        )

    program = jax.make_jaxpr(forward)(jax.ShapeDtypeStruct((2, 6), "float32"), params, features).jaxpr
    residuals = {variable for variable in program.outvars if isinstance(variable, core.Var)} - set(program.invars)
    shapes = {variable.aval.shape for variable in residuals}
    cut = {shape for shape in shapes if shape[-2:] in {(CONFIG.width, CONFIG.hidden), (CONFIG.hidden, CONFIG.width)}}
    assert not cut
