"""Counts of FLOPs at shapes, and the check that all variants of a port's gradient agree."""

import jax
import numpy as np

from r2t2_jax.costs.jaxpr import count_flops
from tests.compile_counts import quick_jit


def flops_of(function, *arguments):
    """FLOPs of a function at the shapes of its arguments."""
    return count_flops(jax.make_jaxpr(function)(*arguments))


def double(tree):
    """The tree with its floating-point arrays in float64."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf, tree)


def check_variants(variants, params_of, raw, r, answer):
    """Every variant gives the loss and the gradient of the first, the literal one, to 1e-5, from float64 parameters."""
    kept, results = {}, {}
    with jax.enable_x64(True):
        for variant in variants:
            params, program = double(params_of(variant)), (variant.once, variant.loss)
            if variant.once not in kept:
                kept[variant.once] = quick_jit(variant.once)(params, raw)
            if program not in results:  # variants that differ in what else is computed, or when, share it
                step = quick_jit(jax.value_and_grad(variant.loss))
                results[program] = step(double(r), params, kept[variant.once], answer)
            loss, gradient = next(iter(results.values()))
            assert np.abs(gradient).max() > 1e-3
            np.testing.assert_allclose(results[program][0], loss, atol=1e-5, err_msg=variant.name)
            np.testing.assert_allclose(results[program][1], gradient, atol=1e-5, err_msg=variant.name)
