"""A port's closed forms against its programs, and the rungs of its ladder against each other."""

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.costs.ladder import Measure
from r2t2_jax.routing import Routing
from tests.compile_counts import quick_jit


def walk(function, *arguments):
    """FLOPs of a program at these shapes."""
    return count_flops(jax.make_jaxpr(function)(*arguments))


def check_passes(shapes):
    """Every pass's closed form equals a count over the program."""
    costs, model, params = shapes.costs, shapes.model, shapes.params
    inputs = costs.raw
    if costs.prepare is not None:
        assert costs.prepare_flops == walk(costs.prepare, params, costs.raw)
        inputs = jax.eval_shape(costs.prepare, params, costs.raw)
    assert costs.encode_flops == walk(model.encode, params, inputs)
    assert costs.route_flops == walk(model.route, params, shapes.features)

    def loss(params, features, answer, r=None):
        return model.answer_loss(params, features, None if r is None else Routing(r), answer)

    assert costs.answer_flops == walk(loss, params, shapes.features, shapes.answer)
    r = jax.ShapeDtypeStruct(model.spec.shape, jnp.float32)
    assert costs.rerouted_loss_flops == walk(loss, params, shapes.features, shapes.answer, r)
    literal = costs.ladder[0]
    assert costs.naive_flops == walk(literal.loss, *Measure(shapes).arguments(literal))


def check_rung(shapes, rung):
    """A rung's closed forms equal counts over its programs."""
    assert rung.once_flops == walk(rung.once, rung.params, shapes.costs.raw)
    differentiated = (0, 1) if rung.every_gradient else 0
    program = jax.make_jaxpr(jax.value_and_grad(rung.loss, differentiated))(*Measure(shapes).arguments(rung))
    assert rung.step_flops == count_flops(program)


def check_ladder(ladder, params_of, raw, r, answer):
    """Every rung gives the loss and the gradient of the first, the plain ones, to 1e-5."""
    kept, found = {}, {}
    for rung in ladder:
        params, program = params_of(rung), (rung.once, rung.loss)
        if rung.once not in kept:
            kept[rung.once] = quick_jit(rung.once)(params, raw)
        if program not in found:  # rungs that differ in what else is computed, or when, share it
            found[program] = quick_jit(jax.value_and_grad(rung.loss))(r, params, kept[rung.once], answer)
        loss, slope = next(iter(found.values()))
        assert np.abs(slope).max() > 1e-3
        np.testing.assert_allclose(found[program][0], loss, atol=1e-5, err_msg=rung.name)
        np.testing.assert_allclose(found[program][1], slope, atol=1e-5, err_msg=rung.name)
