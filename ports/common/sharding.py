"""How parameters are shared among the devices of a (data, model) mesh, by rules on their paths.

Samples go along `data`. Column-parallel kernels are cut along their output, row-parallel ones along their input, as in
Megatron-LM (Shoeybi et al. 2019); what no rule names stays whole everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ports.common.checkpoint.mapping import path_name
from r2t2_jax.errors import R2T2Error

MODEL_AXIS = "model"
Rules = Sequence[tuple[str, int]]  # a regular expression for whole paths, and the axis to cut, from the end


def specification(path: str, shape: tuple[int, ...], parts: int, rules: Rules) -> PartitionSpec:
    """Where a parameter is cut into `parts`; nowhere if no rule names it or the axis does not divide."""
    for pattern, axis in rules:
        if re.fullmatch(pattern, path) and shape[axis] % parts == 0:
            cut: list[str | None] = [None] * len(shape)
            cut[axis] = MODEL_AXIS
            return PartitionSpec(*cut)
    return PartitionSpec()


def shardings_by(rules: Rules, params: Any, mesh: Mesh) -> Any:
    """A sharding for every parameter: for `jax.device_put`, or on the shapes that a directory is restored into.

    Raises:
        R2T2Error: the mesh has no axis `model`.
    """
    if MODEL_AXIS not in mesh.shape:
        raise R2T2Error(f"the mesh has axes {mesh.axis_names}; name the one that weights are cut over {MODEL_AXIS!r}")
    parts = mesh.shape[MODEL_AXIS]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, specification(path_name(path), leaf.shape, parts, rules)), params
    )


def placed(shapes: Any, shardings: Any) -> Any:
    """The shapes of parameters with where each goes, as a directory is restored into them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
