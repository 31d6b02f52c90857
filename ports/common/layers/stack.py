"""Equal layers as one module: parameters stacked along a leading axis, run by `jax.lax.scan`.

A stack is a module of one layer whose parameters have a leading axis over the layers, for example
`layers/attention/q_proj/kernel` with shape [layers, in, out]. A scanned stack compiles one layer, not all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, Key


class _Keys:
    """The part of `nnx.Rngs` that modules use: new keys of the stream `params`, counted in plain Python."""

    def __init__(self, key: Key[Array, ""]):
        self._key, self._count = key, 0

    def params(self) -> Key[Array, ""]:
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


def traced_keys(seed: int | Key[Array, ""]) -> nnx.Rngs:
    """Keys from a seed or a key, for modules created inside `nnx.eval_shape`, `jax.jit` or `jax.vmap`."""
    return cast(nnx.Rngs, _Keys(jax.random.key(seed) if isinstance(seed, int) else seed))


Remat = Literal["none", "attention", "full"]

VIEWS = ("dynamic_slice", "squeeze", "reshape")  # primitives of `layer_at`


def recomputed(step: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """`step` under `jax.checkpoint`: the same values and gradients, with another trade of memory for computation."""
    if remat == "full":
        return jax.checkpoint(step, prevent_cse=False)
    # A product over heads or neighbors has batch axes, a linear map has none.
    keep = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "attention" else _all_but_views
    return jax.checkpoint(step, prevent_cse=False, policy=keep)


def _all_but_views(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name not in VIEWS


Module = TypeVar("Module", bound=nnx.Module)


def stack(make: Callable[[nnx.Rngs], Module], number: int, rngs: nnx.Rngs) -> Module:
    """`number` layers of `make(rngs)`, each initialized from its own key."""
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
        layers: a stack from `stack`.
        step: `step(layer, carry, input) -> (carry, output)` with `layer` a module of one layer.
        carry: the value passed from layer to layer.
        inputs: a tree whose leaves have a leading axis over the layers that are run, such as a cache.
        start: the first layer.
        stop: one past the last layer, as in a slice; None for the end of the stack.
        remat: which intermediate values the backward pass computes again.

    Returns:
        The last carry, and the outputs stacked along a leading axis.
    """
    graph, params = nnx.split(layers)
    number = jax.tree.leaves(params)[0].shape[0]
    run = range(number)[start:stop]

    def scanned_layer(carry: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        params, layer_input = item
        return step(nnx.merge(graph, params), carry, layer_input)

    def indexed_layer(carry: Any, item: tuple[Any, Any]) -> tuple[Any, Any]:
        index, layer_input = item
        return step(layer_at(layers, index), carry, layer_input)

    if len(run) == number:
        body = scanned_layer if remat == "none" else recomputed(scanned_layer, remat)
        return jax.lax.scan(body, carry, (params, inputs))
    return jax.lax.scan(recomputed(indexed_layer, remat), carry, (jnp.arange(run.start, run.stop), inputs))


def layer_at(layers: Module | None, number: Int[Array, ""] | int) -> Module:
    """One layer of a stack, indexed inside the loop, so that no part of a large stack is copied before it."""
    assert layers is not None  # models without plain layers do not call this
    graph, params = nnx.split(layers)
    return nnx.merge(
        graph, jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), params)
    )
