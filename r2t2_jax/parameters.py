"""A model's parameters, some to be trained and the others to be left alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array

from r2t2_jax.contract import Params

Join = Callable[[Sequence[Array]], Params]


def below(params: Params, paths: Sequence[str]) -> tuple[bool, ...]:
    """Which leaves lie at or below one of the paths, such as `gate` or `mixed/mixer/gates`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return tuple(any(name == path or name.startswith(f"{path}/") for path in paths) for name in names)


def split(params: Params, chosen: Sequence[bool]) -> tuple[list[Array], Join]:
    """The chosen leaves, and a function that puts others in their place."""
    leaves, structure = jax.tree.flatten(params)

    def join(others: Sequence[Array]) -> Params:
        rest = iter(others)
        return jax.tree.unflatten(
            structure, [next(rest) if mine else leaf for leaf, mine in zip(leaves, chosen, strict=True)]
        )

    return [leaf for leaf, mine in zip(leaves, chosen, strict=True) if mine], join
