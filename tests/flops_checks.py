"""Counts of FLOPs at shapes, and the check that all variants of a port's gradient agree."""

import jax
import numpy as np

from r2t2_jax.costs.jaxpr import count_flops
from tests.compile_counts import quick_jit


def flops_of(function, *arguments):
    """FLOPs of a function at the shapes of its arguments."""
    return count_flops(jax.make_jaxpr(function)(*arguments))


def check_variants(variants, params_of, raw, r, answer):
    """Every variant gives the loss and the gradient of the first, the literal one, to 1e-5."""
    kept, results = {}, {}
    for variant in variants:
        params, program = params_of(variant), (variant.once, variant.loss)
        if variant.once not in kept:
            kept[variant.once] = quick_jit(variant.once)(params, raw)
        if program not in results:  # variants that differ in what else is computed, or when, share it
            step = quick_jit(jax.value_and_grad(variant.loss))
            results[program] = step(r, params, kept[variant.once], answer)
        loss, gradient = next(iter(results.values()))
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(results[program][0], loss, atol=1e-5, err_msg=variant.name)
        np.testing.assert_allclose(results[program][1], gradient, atol=1e-5, err_msg=variant.name)
