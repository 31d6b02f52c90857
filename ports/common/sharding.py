"""Sharding of parameters over a (data, model) mesh, by rules on their paths.

Samples are sharded along `data`. Column-parallel kernels are sharded along their output axis, row-parallel ones along
their input axis, as in Megatron-LM (Shoeybi et al. 2019); parameters without a rule are replicated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ports.common.checkpoint.mapping import path_name
from r2t2_jax.errors import R2T2Error

MODEL_AXIS = "model"
Rules = Sequence[tuple[str, int]]  # a regular expression for whole paths, and the axis to shard, counted from the end


def specification(path: str, shape: tuple[int, ...], parts: int, rules: Rules) -> PartitionSpec:
    """The partition of a parameter into `parts`; replicated if no rule matches or the axis is not divisible."""
    for pattern, axis in rules:
        if re.fullmatch(pattern, path) and shape[axis] % parts == 0:
            axes: list[str | None] = [None] * len(shape)
            axes[axis] = MODEL_AXIS
            return PartitionSpec(*axes)
    return PartitionSpec()


def shardings_by(rules: Rules, params: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A sharding for every parameter, for `jax.device_put` or for `placed`.

    Raises:
        R2T2Error: the mesh has no axis `model`.
    """
    if MODEL_AXIS not in mesh.shape:
        raise R2T2Error(f"the mesh has axes {mesh.axis_names}; name the axis of the weights {MODEL_AXIS!r}")
    parts = mesh.shape[MODEL_AXIS]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, specification(path_name(path), leaf.shape, parts, rules)), params
    )


def placed(shapes: Any, shardings: Any) -> Any:
    """The shapes of parameters with their shardings, to restore a model directory into."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
