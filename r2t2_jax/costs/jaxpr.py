"""Analysis of a jaxpr: its FLOPs by named scope, its memory, and the products that are gradients of weight matrices.

A program of any size is traced at abstract shapes, so nothing is allocated and nothing runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.source_info_util import new_name_stack

from r2t2_jax.contract import OUTER_PRODUCTS

PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
SOLVE = "triangular_solve"


Scopes = tuple[str, ...]
NAMED_SCOPE = type(new_name_stack("scope").stack[0])  # the other entries of a name stack are transformations


def count_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """FLOPs (2 x multiply-add) of the matrix products, convolutions and triangular solutions in a jaxpr.

    The body of a scan counts once per iteration, the most expensive branch of a cond once, and the body of a while loop
    once, since its trip count is unknown.
    """
    return flops_by_scope(jaxpr).total()


def flops_by_scope(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> Counter[Scopes]:
    """The FLOPs of `count_flops` by the `jax.named_scope` that they were traced in.

    The key of a product is the names of the scopes around it, outermost first. The transformed parts of a program
    (forward, transposed and vmapped) count in the scope of the function that was transformed. The transposed body of a
    `jax.checkpoint` counts in the scope around it, since JAX drops the names inside. In a scope `OUTER_PRODUCTS` a
    multiplication counts as part of a matrix product.
    """
    total: Counter[Scopes] = Counter()
    for equation in _equations(jaxpr):
        name, scopes = equation.primitive.name, _scopes(equation)
        inner = [_below(scopes, flops_by_scope(sub)) for sub in _inner(equation)]
        if name in PRODUCTS:
            total[scopes] += _product_flops(equation)
        elif name == "mul" and OUTER_PRODUCTS in scopes:
            total[scopes] += 2 * math.prod(_shape(equation.outvars[0]))
        elif name == SOLVE:  # n / 2 multiply-adds per entry of the solution
            total[scopes] += _shape(equation.invars[0])[-1] * math.prod(_shape(equation.outvars[0]))
        elif name == "cond":
            total.update(max(inner, key=lambda flops: sum(flops.values())))
        elif inner:
            times = equation.params["length"] if name == "scan" else 1
            for body in inner:
                for key, flops in body.items():
                    total[key] += times * flops
    return total


def flops_within(flops: Mapping[Scopes, int], *scopes: str) -> int:
    """The FLOPs whose scopes include all of the given names."""
    return sum(count for names, count in flops.items() if set(scopes) <= set(names))


def _scopes(equation: core.JaxprEqn) -> Scopes:
    stack = equation.source_info.name_stack.stack
    return tuple(entry.name for entry in stack if isinstance(entry, NAMED_SCOPE))


def _below(scopes: Scopes, flops: Counter[Scopes]) -> Counter[Scopes]:
    return Counter({(*scopes, *names): count for names, count in flops.items()})


def count_operations(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> tuple[int, int]:
    """Operations of a jaxpr, and the bytes of their arguments and results, both before any fusion.

    The body of a scan counts once per iteration, every branch of a cond and the body of a while loop once. Calls, loops
    and branches are no operations themselves.
    """
    operations = moved = 0
    for equation in _equations(jaxpr):
        inner = [count_operations(sub) for sub in _inner(equation)]
        if inner:
            times = equation.params["length"] if equation.primitive.name == "scan" else 1
            operations += times * sum(count for count, _ in inner)
            moved += times * sum(size for _, size in inner)
        else:
            operations += 1
            moved += sum(_bytes(variable) for variable in (*equation.invars, *equation.outvars))
    return operations, moved


def peak_bytes(jaxpr: core.ClosedJaxpr | core.Jaxpr, shares: Sequence[float] | None = None) -> int:
    """Bytes of the results that are live at the same time at most, in the order in which a program is traced.

    Arguments are not counted. Compilers fuse operations, so their programs usually need less.

    Args:
        jaxpr: the program.
        shares: of each argument, the part that a device holds: 1 / n for parameters that are sharded over n devices. A
            slice of such an argument counts as much as its share, everything else in full. `None` for one device.
    """
    return round(_peak(jaxpr, shares or [])[0])


SLICES = ("dynamic_slice", "slice", "squeeze", "reshape", "transpose", "convert_element_type")  # keep the sharding


def _peak(jaxpr: core.ClosedJaxpr | core.Jaxpr, shares: Sequence[float]) -> tuple[float, list[float]]:
    """The bytes of `peak_bytes`, and the shares of the program's results."""
    body = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    share: dict[Any, float] = dict(zip(body.invars, shares, strict=False))
    last = {variable: place for place, equation in enumerate(body.eqns) for variable in _variables(equation.invars)}
    last |= dict.fromkeys(_variables(body.outvars), len(body.eqns))
    held, live, peak = dict[Any, float](), 0.0, 0.0
    for place, equation in enumerate(body.eqns):
        own = [share.get(variable, 1.0) if isinstance(variable, core.Var) else 1.0 for variable in equation.invars]
        inside, parts = _peak_inside(equation, own)
        for variable, part in zip(equation.outvars, parts, strict=True):
            share[variable], held[variable] = part, part * _bytes(variable)
            live += held[variable]
        peak = max(peak, live + inside)
        for variable in {*_variables(equation.invars), *equation.outvars}:
            if last.get(variable, place) == place:
                live -= held.pop(variable, 0.0)
    return peak, [share.get(variable, 1.0) if isinstance(variable, core.Var) else 1.0 for variable in body.outvars]


def _peak_inside(equation: core.JaxprEqn, shares: Sequence[float]) -> tuple[float, list[float]]:
    """The bytes of an equation's bodies besides those of its results, and the shares of its results."""
    name, results, inside = equation.primitive.name, len(equation.outvars), 0.0
    parts = [min(shares, default=1.0) if name in SLICES else 1.0] * results
    for inner in _inner(equation):
        body = inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner
        own = shares[-len(body.invars) :] if body.invars else []  # conditions and counts stand in front
        bytes_inside, inner_parts = _peak(inner, own if len(own) == len(body.invars) else [])
        if name == "scan":
            first = equation.params["num_consts"] + equation.params["num_carry"]
            slices = sum(share * _bytes(x) for share, x in zip(own[first:], body.invars[first:], strict=True))
            inside = max(inside, bytes_inside + slices)
        else:
            returned = sum(part * _bytes(x) for part, x in zip(inner_parts, body.outvars, strict=True))
            inside = max(inside, bytes_inside - returned)
            parts = inner_parts if len(inner_parts) == results and name not in ("while", "cond") else parts
    return inside, parts


def _variables(variables: Sequence[Any]) -> list[core.Var]:
    return [variable for variable in variables if isinstance(variable, core.Var)]


def _bytes(variable: Any) -> int:
    aval = variable.aval
    dtype = getattr(aval, "dtype", None)
    return 0 if dtype is None else math.prod(aval.shape) * getattr(dtype, "itemsize", 4)


def weight_gradients(jaxpr: core.ClosedJaxpr | core.Jaxpr, params: Any) -> list[str]:
    """Products whose result has the shape of a weight matrix, as the gradient with respect to that matrix has.

    Only shapes are compared, so the model's sizes must differ from those of all activations. A stacked weight [layers,
    ...] also matches without its leading axis, and a matrix also matches its transpose.

    Args:
        jaxpr: the program.
        params: the model's parameters or their shapes; leaves with fewer than two axes are ignored.

    Returns:
        One line per matching equation; empty if the program computes no weight gradient.
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
    """The jaxprs inside an equation: bodies of loops, branches, jit and functions with custom derivatives."""
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
    if equation.primitive.name == "ragged_dot_general":  # each row meets the matrix of its own group only
        numbers = equation.params["ragged_dot_dimension_numbers"]
        (contracted, _), _ = numbers.dot_dimension_numbers
        flops = 2 * out * math.prod(left[axis] for axis in contracted)
        groups = _shape(equation.invars[2])[-1]
        return flops // groups if set(numbers.lhs_ragged_dimensions) & set(contracted) else flops
    _, per_group, *window = equation.params["dimension_numbers"].rhs_spec  # out channels, channels per group, space
    # The gradient of a strided convolution dilates its input with zeros; products with these zeros are not counted.
    _, _, *space = equation.params["dimension_numbers"].lhs_spec
    _, _, *out_space = equation.params["dimension_numbers"].out_spec
    for in_axis, out_axis, dilation in zip(space, out_space, equation.params["lhs_dilation"], strict=True):
        if dilation > 1:
            out = out // _shape(equation.outvars[0])[out_axis] * left[in_axis]
    return 2 * out * right[per_group] * math.prod(right[axis] for axis in window)


def depends_on_first_input(jaxpr: core.Jaxpr, inputs: Sequence[bool] | None = None) -> bool:
    """Whether an output of a jaxpr can depend on its first input (or on those marked in `inputs`).

    Bodies of jit are followed; other nested programs count as reading all of their operands.
    """
    return any(_dependent_outputs(jaxpr, inputs or [True] + [False] * (len(jaxpr.invars) - 1)))


def _dependent_outputs(jaxpr: core.Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    reached = {var for var, marked in zip(jaxpr.invars, inputs, strict=True) if marked}

    def marked(variable: Any) -> bool:
        return not isinstance(variable, core.Literal) and variable in reached

    for equation in jaxpr.eqns:
        operands = [marked(variable) for variable in equation.invars]
        if not any(operands):
            continue
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        outputs = _dependent_outputs(inner.jaxpr, operands) if inner is not None else [True] * len(equation.outvars)
        reached |= {variable for variable, out in zip(equation.outvars, outputs, strict=True) if out}
    return [marked(variable) for variable in jaxpr.outvars]
