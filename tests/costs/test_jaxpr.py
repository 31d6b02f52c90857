"""Analysis of a jaxpr: FLOPs against counts by hand, by scope; weight gradients are found only where there are some."""

import jax
import jax.numpy as jnp

from r2t2_jax.contract import OUTER_PRODUCTS
from r2t2_jax.costs.jaxpr import (
    count_flops,
    count_operations,
    flops_by_scope,
    flops_within,
    peak_bytes,
    weight_gradients,
)
from r2t2_jax.costs.prediction import _traced_bytes
from r2t2_jax.method.rerouting import _reroute_samples
from r2t2_jax.methods import strategy
from tests.method.test_rerouting import SGD, program
from tests.toy import MODEL, A, D, E, L, V, toy_params


def flops(function, *shapes):
    return count_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_flops_of_products_convolutions_loops_and_branches_are_those_counted_by_hand():
    assert flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", feature_group_count=2)  # noqa: E731
    assert flops(convolve, (1, 4, 8, 8), (6, 2, 3, 3)) == 2 * (6 * 4 * 4) * (2 * 3 * 3)

    def loop(a, b):
        return jax.lax.scan(lambda x, _: (jax.jit(jnp.tanh)(x @ b), None), a, length=11)[0]

    assert flops(loop, (3, 5), (5, 5)) == 11 * 2 * 3 * 5 * 5
    branch = lambda a, b: jax.lax.cond(a.sum() > 0, lambda: a @ b @ b, lambda: a @ b)  # noqa: E731
    assert flops(branch, (3, 5), (5, 5)) == 2 * 2 * 3 * 5 * 5
    assert flops(jax.checkpoint(lambda a, b: a @ b), (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    solve = lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True)  # noqa: E731
    assert flops(solve, (6, 6), (6, 4)) == 2 * (6 * 6 // 2) * 4


def test_flops_are_divided_by_named_scope_through_loops_transformations_and_checkpoints():
    def model(x, w):
        with jax.named_scope("encoder"):
            x = x @ w

        @jax.named_scope("layer")
        def layer(x, _):
            return jax.checkpoint(jax.jit(lambda x: jnp.tanh(x @ w)))(x), None

        with jax.named_scope("decoder"):
            x, _ = jax.lax.scan(layer, x, length=3)
        return (x @ w).sum()

    x, w = jnp.ones((2, 5)), jnp.ones((5, 5))
    once = 2 * 2 * 5 * 5
    forward = flops_by_scope(jax.make_jaxpr(model)(x, w))
    assert forward == {("encoder",): once, ("decoder", "layer"): 3 * once, (): once}
    assert flops_within(forward, "decoder") == flops_within(forward, "layer", "decoder") == 3 * once
    backward = flops_by_scope(jax.make_jaxpr(jax.vmap(jax.grad(model, 1), (0, None)))(x[None], w))
    assert flops_within(backward, "encoder") == 2 * once  # the gradient of w, none of x
    assert flops_within(backward, "decoder") == 4 * 3 * once  # forward, forward again, and two gradients
    assert flops_within(backward) == backward.total() == (2 + 12 + 3) * once


def test_sums_of_outer_products_count_as_the_matrix_product_that_they_are():
    @jax.named_scope(OUTER_PRODUCTS)
    def product(a, b):
        return sum(a[:, i, None] * b[None, i] for i in range(5))

    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    counted = flops_by_scope(jax.make_jaxpr(jax.vmap(lambda a, b: 2 * product(a, b), (0, None)))(a[None], b))
    assert counted == {(OUTER_PRODUCTS,): 2 * 3 * 5 * 7}


def ngd_jaxpr():
    args, static = program(strategy("ngd", SGD))
    return jax.make_jaxpr(lambda *args: _reroute_samples(*args, **static))(*args)


def test_rerouting_differentiates_no_weight():
    params = toy_params()
    assert weight_gradients(ngd_jaxpr(), params) == []

    features = {"x": jnp.ones(D), "gate": jnp.ones(5)}
    answer = {"tokens": jnp.ones(A, int), "mask": jnp.ones(A)}
    training = jax.make_jaxpr(jax.grad(lambda params: MODEL.answer_loss(params, features, None, answer)))(params)
    assert weight_gradients(training, params)  # this is how it would look


def test_a_step_costs_at_most_two_passes_per_neighbor():
    samples, steps, neighbors = 4, SGD.descent.steps, 5
    forward = L * (2 * E * D * D + 2 * E * D) + A * (2 * D * V + 2 * 3 * V)  # the toy's formulas
    ratio = count_flops(ngd_jaxpr()) / (samples * steps * neighbors * forward)
    assert 1.3 < ratio <= 2  # three would be weight gradients too


def test_peak_bytes_of_programs_by_hand():
    x = jax.ShapeDtypeStruct((100,), jnp.float32)  # 400 bytes

    def chain(x):  # two results live at a time
        for _ in range(5):
            x = x + 1
        return x

    def kept(x):  # a, b, sin(a) and a + b are live at the same time
        a, b = x + 1, x + 2
        return jnp.sin(a) + (a + b)

    def scanned(x):  # the carry, its copy in the body, and the stacked outputs
        return jax.lax.scan(lambda carry, _: (carry + 1, carry), x, None, length=3)

    assert peak_bytes(jax.make_jaxpr(chain)(x)) == 800
    assert peak_bytes(jax.make_jaxpr(kept)(x)) == 1600
    assert peak_bytes(jax.make_jaxpr(scanned)(x)) == 400 + 1200 + 400
    assert peak_bytes(jax.make_jaxpr(jax.jit(chain))(x)) == 800


def test_slices_of_sharded_arguments_count_with_their_share():
    stack, index = jax.ShapeDtypeStruct((6, 8, 10), jnp.bfloat16), jax.ShapeDtypeStruct((), jnp.int32)

    def layer(stack, index):
        return jax.lax.dynamic_index_in_dim(stack, index, keepdims=False).T

    program = jax.make_jaxpr(layer)(stack, index)
    whole = peak_bytes(program)
    assert whole >= 2 * 8 * 10 * 2  # the slice and its transpose
    assert peak_bytes(program, [1 / 4, 1.0]) <= whole / 4 + 8


def test_traced_programs_hold_the_part_of_a_device():
    mesh = jax.sharding.AbstractMesh((4,), ("model",))
    rows = jax.sharding.NamedSharding(mesh, jax.P(None, "model"))
    sharded = jax.ShapeDtypeStruct((6, 8, 10), jnp.bfloat16, sharding=rows)
    whole = jax.ShapeDtypeStruct((6, 8, 10), jnp.bfloat16)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.jit(lambda index, stack: jax.lax.dynamic_index_in_dim(stack, index, keepdims=False).T).trace(
        index, whole
    )
    assert _traced_bytes(traced, [sharded]) <= _traced_bytes(traced, [whole]) / 4 + 8


def test_operations_and_bytes_count_loop_bodies_once_per_iteration():
    def loop(a, b):
        return jax.lax.scan(lambda x, _: (jnp.sin(x @ b), None), a, length=11)[0]

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 5)))
    # A product reads 15 + 25 numbers and writes 15; a sine reads and writes 15.
    assert count_operations(jax.make_jaxpr(loop)(*shapes)) == (11 * 2, 11 * 4 * (15 + 25 + 15 + 15 + 15))
