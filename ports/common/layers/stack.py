"""Homogeneous layers as one: parameters stacked along a leading axis, run by `jax.lax.scan`.

A stack is an ordinary module of one layer whose every parameter has a leading axis over the layers, so a path reads
`layers/attention/query/kernel` with shape [layers, in, out]. A scanned stack compiles once, not once a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Key


class _Keys:
    """What modules ask of `nnx.Rngs`: a new key of the stream `params`, here counted in plain Python."""

    def __init__(self, key: Key[Array, ""]):
        self._key, self._count = key, 0

    def params(self) -> Key[Array, ""]:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def traced_keys(seed: int | Key[Array, ""]) -> nnx.Rngs:
    """Keys from a seed or a key, for modules made within `nnx.eval_shape`, `jax.jit` or `jax.vmap`."""
    return cast(nnx.Rngs, _Keys(jax.random.key(seed) if isinstance(seed, int) else seed))


Remat = Literal["none", "attention", "full"]

VIEWS = ("dynamic_slice", "squeeze", "reshape")  # how `stack.layer_at` cuts a layer out


def recomputed(step: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """`step` with the same values and gradients, and another trade of memory for work."""
    if remat == "full":
        return jax.checkpoint(step, prevent_cse=False)
    # A product over an axis of heads or neighbours has batch axes, a linear map has none.
    keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "attention" else _all_but_views
    return jax.checkpoint(step, prevent_cse=False, policy=keep)


def _all_but_views(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in VIEWS


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
    remat: Remat = "none",
) -> tuple[Any, Any]:
    """Run layers `start` to `stop` of a stack.

    Args:
        layers: what `stack` made.
        step: `step(layer, carry, input) -> (carry, output)` with `layer` an ordinary module of one layer.
        carry: what goes from layer to layer.
        inputs: a tree whose leaves have a leading axis over the layers that are run (a cache, say).
        start: the first layer.
        stop: behind the last layer, as in a slice; all of them where not given.
        remat: what of the layers' insides the backward pass computes again.

    Returns:
        The last carry, and the outputs stacked along a leading axis.
    """
    graph, params = nnx.split(layers)
    number = jax.tree.leaves(params)[0].shape[0]
    run = range(number)[start:stop]

    def given_layer(carry: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        params, given = item
        return step(nnx.merge(graph, params), carry, given)

    def layer_looked_up(carry: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        place, given = item
        return step(layer_at(layers, place), carry, given)

    if len(run) == number:
        body = given_layer if remat == "none" else recomputed(given_layer, remat)
        return jax.lax.scan(body, carry, (params, inputs))
    return jax.lax.scan(recomputed(layer_looked_up, remat), carry, (jnp.arange(run.start, run.stop), inputs))


def layer_at(layers: Module | None, number: Int[Array, ""] | int) -> Module:
    """One layer of a stack. Looked up inside a loop, so that no part of a large stack is ever copied out of it."""
    assert layers is not None  # a model without plain layers never asks for one
    graph, params = nnx.split(layers)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), params)
    )
