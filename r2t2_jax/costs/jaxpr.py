"""What a traced program computes: its FLOPs, and whether it differentiates the model's weights.

Both are read off the jaxpr, so a program of any size is examined at abstract shapes without running it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core

PRODUCTS = ("dot_general", "conv_general_dilated")


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """FLOPs (2 x multiply-add) of the matrix products and convolutions in a jaxpr.

    The body of a scan counts as often as it runs, the costliest branch of a cond once, and the body of a while loop
    once, since its trip count is unknown.
    """
    total = 0
    for equation in _equations(jaxpr):
        name = equation.primitive.name
        inner = [count_flops(sub) for sub in _inner(equation)]
        if name in PRODUCTS:
            total += _product_flops(equation)
        elif name == "cond":
            total += max(inner)
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            total += sum(inner)
    return total


def weight_gradients(jaxpr: core.ClosedJaxpr | core.Jaxpr, params: Any) -> list[str]:
    """Products whose result has the shape of a weight matrix, as the gradient with respect to that matrix has.

    Shapes are all that is looked at: give the model sizes which no activation shares. Layers stacked for a scan are
    looked for without their leading axis too, and matrices transposed.

    Args:
        jaxpr: the program.
        params: the model's parameters, or their shapes; leaves of fewer than two axes are not looked for.

    Returns:
        One line an offending equation; empty if the program computes no weight gradient.
    """
    shapes = {
        tuple(sorted(shape))
        for leaf in jax.tree.leaves(params)
        for shape in (leaf.shape, leaf.shape[1:])
        if len(shape) >= 2
    }
    return [
        str(equation)
        for equation in _all_equations(jaxpr)
        if equation.primitive.name in PRODUCTS and _matches(_shape(equation.outvars[0]), shapes)
    ]


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _matches(shape: tuple[int, ...], shapes: set[tuple[int, ...]]) -> bool:
    return tuple(sorted(size for size in shape if size > 1)) in shapes or tuple(sorted(shape)) in shapes


def _equations(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> list[core.JaxprEqn]:
    return jaxpr.jaxpr.eqns if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr.eqns


def _inner(equation: core.JaxprEqn) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    """The jaxprs an equation runs: the bodies of loops, branches, jit, vmapped and custom-derivative functions."""
    for value in equation.params.values():
        for candidate in value if isinstance(value, tuple | list) else (value,):
            if isinstance(candidate, core.ClosedJaxpr | core.Jaxpr):
                yield candidate


def _all_equations(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Iterator[core.JaxprEqn]:
    for equation in _equations(jaxpr):
        yield equation
        for sub in _inner(equation):
            yield from _all_equations(sub)


def _product_flops(equation: core.JaxprEqn) -> int:
    left, right = (_shape(variable) for variable in equation.invars[:2])
    out = math.prod(_shape(equation.outvars[0]))
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out * math.prod(left[axis] for axis in contracted)
    _, per_group, *window = equation.params["dimension_numbers"].rhs_spec  # out channels, in channels of a group, space
    # The gradient of a strided convolution spreads its input out with zeros, which are multiplied with nothing.
    _, _, *space = equation.params["dimension_numbers"].lhs_spec
    spread = zip(space, equation.params["dimension_numbers"].out_spec[2:], equation.params["lhs_dilation"], strict=True)
    for inside, outside, dilation in spread:
        if dilation > 1:
            out = out // _shape(equation.outvars[0])[outside] * left[inside]
    return 2 * out * right[per_group] * math.prod(right[axis] for axis in window)
