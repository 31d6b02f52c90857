"""From PyTorch names to our parameters: one `Leaf` says how one parameter is made.

A port's `params.py` lists its leaves by path in the NNX state (`decoder/layers/query/kernel`) and the names it knows
and does not need. What is checked is that the two meet: `ports/common/conversion.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


def as_is(tensor: np.ndarray) -> np.ndarray:
    """The tensor unchanged."""
    return tensor


def linear(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in] weight as a kernel [in, out]."""
    return tensor.T


def convolution(tensor: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in, height, width] weight as a kernel [height, width, in, out]."""
    return tensor.transpose(2, 3, 1, 0)


@dataclass(frozen=True)
class Leaf:
    """How one parameter is made of PyTorch tensors.

    Args:
        names: the tensors it is read from, one; with `stacked`, one for each entry of the leading axis.
        change: done to each tensor before stacking; views only, so that memory-mapped tensors stay on disk.
        stacked: the parameter has a leading axis over `names`, as the layers of a scanned stack have.
    """

    names: tuple[str, ...]
    change: Callable[[np.ndarray], np.ndarray] = as_is
    stacked: bool = False


Layers = int | Sequence[int] | None  # how many, counted from 0; or their numbers; None: a single module


def layer_names(template: str, layers: Layers) -> tuple[str, ...]:
    """`template` with its `{}` filled by each layer's number; itself alone where `layers` is None."""
    if layers is None:
        return (template,)
    return tuple(template.format(layer) for layer in (range(layers) if isinstance(layers, int) else layers))


def linear_leaves(ours: str, theirs: str, *, bias: bool = True, layers: Layers = None) -> dict[str, Leaf]:
    """`kernel` and `bias` of a linear map; with `layers`, `theirs` has a `{}` and the parameters are stacked."""
    stacked = layers is not None
    leaves = {f"{ours}/kernel": Leaf(layer_names(f"{theirs}.weight", layers), linear, stacked)}
    if bias:
        leaves[f"{ours}/bias"] = Leaf(layer_names(f"{theirs}.bias", layers), as_is, stacked)
    return leaves


def norm_leaves(ours: str, theirs: str, layers: Layers = None, *, bias: bool = True) -> dict[str, Leaf]:
    """`scale` and `bias` of a norm; with `layers`, `theirs` has a `{}` and the parameters are stacked."""
    parts = {"scale": "weight", "bias": "bias"} if bias else {"scale": "weight"}
    return {
        f"{ours}/{part}": Leaf(layer_names(f"{theirs}.{name}", layers), as_is, layers is not None)
        for part, name in parts.items()
    }
