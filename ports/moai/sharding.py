"""How parameters are shared among the devices of a (data, model) mesh: attention heads, feed-forward width, vocabulary.

Samples go along `data`. Column-parallel kernels are cut along their output, row-parallel ones along their input, as in
Megatron-LM (Shoeybi et al. 2019); what is small stays whole everywhere.
"""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ports.common.paths import path_name
from r2t2_jax.errors import R2T2Error

MODEL_AXIS = "model"
# Whole paths, and which axis of the leaf is cut, counted from the end.
RULES = (
    (r"(plain|mixed)/(qkv|gate|up)/(main|image|up)/kernel", -1),
    (r"(plain|mixed)/(out|down)/(main|image|down)/kernel", -2),
    (r"mixed/mixer/\w+/(query|key|value)/up/kernel", -1),
    (r"mixed/mixer/\w+/out/down/kernel", -2),
    (r"vision/tower/layers/attention/(query|key|value)/(kernel|bias)", -1),
    (r"vision/tower/layers/attention/out/kernel", -2),
    (r"vision/tower/layers/up/(kernel|bias)", -1),
    (r"vision/tower/layers/down/kernel", -2),
    (r"vision/up/(kernel|bias)", -1),
    (r"vision/out/kernel", -2),
    (r"compressor/layers/(query|key_value|up)/kernel", -1),
    (r"compressor/layers/(out|down)/kernel", -2),
    (r"head/kernel", -1),
    (r"words", -1),  # the width: the rows are one more than the vocabulary, and odd
)


def specification(path: str, shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Where a parameter is cut into `parts`; nowhere if no rule names it or the axis does not divide."""
    for pattern, axis in RULES:
        if re.fullmatch(pattern, path) and shape[axis] % parts == 0:
            cut: list[str | None] = [None] * len(shape)
            cut[axis] = MODEL_AXIS
            return PartitionSpec(*cut)
    return PartitionSpec()


def shardings(params: Any, mesh: Mesh) -> Any:
    """A sharding for every parameter: for `jax.device_put`, or on the shapes that a directory is restored into.

    Raises:
        R2T2Error: the mesh has no axis `model`.
    """
    if MODEL_AXIS not in mesh.shape:
        raise R2T2Error(f"the mesh has axes {mesh.axis_names}; name the one that weights are cut over {MODEL_AXIS!r}")
    parts = mesh.shape[MODEL_AXIS]
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: NamedSharding(mesh, specification(path_name(path), leaf.shape, parts)), params
    )
