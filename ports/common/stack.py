"""Homogeneous layers as one: parameters stacked along a leading axis, run by `jax.lax.scan`.

A stack is an ordinary module of one layer whose every parameter has a leading axis over the layers, so a path reads
`layers/attention/query/kernel` with shape [layers, in, out]. A scanned stack compiles once, not once a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

from ports.common.keys import traced_keys

Module = TypeVar("Module", bound=nnx.Module)


def stack(make: Callable[[nnx.Rngs], Module], number: int, rngs: nnx.Rngs) -> Module:
    """`number` layers of `make(rngs)`, each drawn from its own key."""
    graph, _ = nnx.split(nnx.eval_shape(lambda: make(traced_keys(0))))
    states = jax.vmap(lambda key: nnx.state(make(traced_keys(key))))(jax.random.split(rngs.params(), number))
    return nnx.merge(graph, states)


def scan_layers(
    layers: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any = None,
    *,
    start: int = 0,
    stop: int | None = None,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Run layers `start` to `stop` of a stack.

    Args:
        layers: what `stack` made.
        step: `step(layer, carry, input) -> (carry, output)` with `layer` an ordinary module of one layer.
        carry: what goes from layer to layer.
        inputs: a tree whose leaves have a leading axis over the layers that are run (a cache, say).
        start: the first layer.
        stop: behind the last layer, as in a slice; all of them where not given.
        remat: recompute the layers' insides in the backward pass instead of keeping them.

    Returns:
        The last carry, and the outputs stacked along a leading axis.
    """
    graph, params = nnx.split(layers)
    if start or stop is not None:
        params = jax.tree.map(lambda leaf: leaf[start:stop], params)

    def body(carry: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        params, given = item
        return step(nnx.merge(graph, params), carry, given)

    return jax.lax.scan(jax.checkpoint(body) if remat else body, carry, (params, inputs))
