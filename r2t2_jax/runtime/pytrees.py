"""Dataclasses as pytrees whose structures compare by class, and selections of parameters, and sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys
from jaxtyping import Array

T = TypeVar("T")
Params = Any  # a pytree of arrays
SHOWN_LEAVES = 6


def register_pytree_dataclass(cls: type[T]) -> type[T]:
    """The dataclass, registered as a pytree: fields with `metadata={"static": True}` are structure, others are traced.

    As `jax.tree_util.register_dataclass`, except that structures also compare by class. In jaxlib 0.10 the structures
    of two classes with equal static fields compare equal, `NearestNeighbors(5)` and `RandomNeighbors(5)` for instance,
    and jit may then run the program compiled for the other. Classes that are alternatives of each other (kernels,
    selectors, objectives, searches) are registered here.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    static = [entry.name for entry in fields if entry.metadata.get("static")]
    traced = [entry.name for entry in fields if not entry.metadata.get("static")]

    def flatten_with_keys(node: T) -> tuple[tuple[tuple[GetAttrKey, Any], ...], tuple[Any, ...]]:
        children = tuple((GetAttrKey(name), getattr(node, name)) for name in traced)
        return children, tuple(getattr(node, name) for name in static)

    def unflatten(structure: tuple[Any, ...], children: Any) -> T:
        return cls(**dict(zip(static, structure, strict=True)), **dict(zip(traced, children, strict=True)))

    register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


Join = Callable[[Sequence[Array]], Params]


def select_params(params: Params, paths: Sequence[str]) -> tuple[bool, ...]:
    """For each leaf, whether it lies at or below one of the paths, such as `gate` or `mixed/mixer/gates`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return tuple(any(name == path or name.startswith(f"{path}/") for path in paths) for name in names)


def partition(params: Params, chosen: Sequence[bool]) -> tuple[list[Array], Join]:
    """The chosen leaves, and a function that rebuilds the tree with other leaves in their places."""
    leaves, structure = jax.tree.flatten(params)

    def join(others: Sequence[Array]) -> Params:
        rest = iter(others)
        return jax.tree.unflatten(
            structure, [next(rest) if selected else leaf for leaf, selected in zip(leaves, chosen, strict=True)]
        )

    return [leaf for leaf, selected in zip(leaves, chosen, strict=True) if selected], join


def shards(tree: Any) -> list[float]:
    """Of each leaf, the part that one device holds: 1 / n if it is sharded over n devices."""
    parts = []
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        size = math.prod(leaf.shape) if sharding is None else math.prod(sharding.shard_shape(leaf.shape))
        parts.append(size / max(1, math.prod(leaf.shape)))
    return parts


def device_bytes(tree: Any) -> int:
    """Bytes of all arrays or shape structs that one device holds."""
    return round(sum(part * tree_bytes(leaf) for part, leaf in zip(shards(tree), jax.tree.leaves(tree), strict=True)))


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays or shape structs; PRNG keys count as their data."""
    leaves = jax.tree.leaves(tree)
    arrays = [
        jax.eval_shape(jax.random.key_data, leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in leaves
    ]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)


def shapes_text(tree: Any) -> str:
    """`float32[8]`, or of a tree `{x: float32[8], mask: bool[3]}`; the type of a leaf that is no array."""
    texts = {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{getattr(leaf, 'dtype', type(leaf).__name__)}"
        f"{list(np.shape(leaf)) if hasattr(leaf, 'shape') else ''}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    if list(texts) == [""]:
        return texts[""]
    if not texts:
        return "nothing"
    shown = [f"{name}: {text}" for name, text in list(texts.items())[:SHOWN_LEAVES]]
    return "{" + ", ".join(shown + ["..."] * (len(texts) > SHOWN_LEAVES)) + "}"
