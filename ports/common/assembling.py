"""Parameters in memory straight from an upstream checkpoint, for models small enough not to be converted first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ports.common.mapping import Leaf
from ports.common.paths import path_name


def assemble(leaves: Mapping[str, Leaf], read: Callable[[str], np.ndarray], abstract: Any) -> Any:
    """`abstract` with every shape filled and cast to its dtype; `check` of `matching.py` said that all fits."""

    def put(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        leaf = leaves[path_name(path)]
        parts = [leaf.change(read(name)) for name in leaf.names]
        return jnp.asarray(np.stack(parts) if leaf.stacked else parts[0], shape.dtype)

    return jax.tree_util.tree_map_with_path(put, abstract)
