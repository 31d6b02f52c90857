"""Keys for modules that are made inside a trace: `nnx.Rngs` keeps its count in a Variable, which is slow there."""

from __future__ import annotations

from typing import cast

import jax
from flax import nnx
from jaxtyping import Array, Key


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
