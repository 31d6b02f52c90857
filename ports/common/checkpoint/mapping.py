"""Mapping from PyTorch tensor names to parameters: one `Leaf` describes how one parameter is made.

A port's `params.py` lists its leaves by path in the NNX state (`decoder/layers/q_proj/kernel`) and the upstream names
that it does not need. `check` verifies that leaves and checkpoint cover each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.errors import R2T2Error


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
    """The PyTorch tensors that make one parameter, and the change of each.

    Args:
        names: the tensor it is read from; with `stacked`, one tensor for each entry of the leading axis.
        change: applied to each tensor before stacking; a view (transposition, slice) where one tensor makes an entry.
        stacked: the parameter has a leading axis over `names`, like the layers of a scanned stack.
        group: number of consecutive names whose tensors make one entry, as `change(*tensors)`.
        dtype: of the parameter on disk; `None` for that of its tensors.
        lazy: `change` takes an iterator over the tensors of an entry instead, so that it need not hold all of them.
    """

    names: tuple[str, ...]
    change: Callable[..., np.ndarray] = as_is
    stacked: bool = False
    group: int = 1
    dtype: str | None = None
    lazy: bool = False

    def entries(self) -> list[tuple[str, ...]]:
        """The names of the tensors of each entry."""
        return [self.names[start : start + self.group] for start in range(0, len(self.names), self.group)]

    def entry(self, tensors: Iterable[np.ndarray]) -> np.ndarray:
        """One entry, of its tensors."""
        return self.change(iter(tensors)) if self.lazy else self.change(*tensors)


Layers = int | Sequence[int] | None  # number of layers, or their indices; None: a single module


def layer_names(template: str, layers: Layers) -> tuple[str, ...]:
    """`template` with its `{}` replaced by each layer's index; only `template` itself if `layers` is None."""
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


def path_name(path: tuple) -> str:
    """`blocks/0/q_proj/kernel` for a path of jax.tree_util; a variable's attribute `value` is left out."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return "/".join(str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", None)))) for entry in path)


def named(params: Any) -> dict[str, Any]:
    """Leaves of a tree by name, in the tree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def assemble(leaves: Mapping[str, Leaf], read: Callable[[str], np.ndarray], abstract: Any) -> Any:
    """`abstract` with every shape replaced by its array, cast to the shape's dtype; `check` must have passed."""

    def put(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        leaf = leaves[path_name(path)]
        parts = [leaf.entry(map(read, names)) for names in leaf.entries()]
        return jnp.asarray(np.stack(parts) if leaf.stacked else parts[0], shape.dtype)

    return jax.tree_util.tree_map_with_path(put, abstract)


@dataclass(frozen=True)
class Tensor:
    """Shape and dtype (a NumPy or ml_dtypes name) of a tensor that was not read."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ConversionReport:
    """Result of `check`: every upstream name is in exactly one of the three fields."""

    mapped: tuple[str, ...]
    ignored: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]  # (kept, dropped), compared when they are read

    def summary(self) -> dict[str, Any]:
        """For `model.json`: the number of mapped tensors, and the names of ignored and tied ones."""
        return {"mapped": len(self.mapped), "ignored": list(self.ignored), "tied": [list(pair) for pair in self.tied]}


def from_manifest(manifest: Mapping[str, Sequence[Any]]) -> dict[str, Tensor]:
    """Tensors from {name: [shape, dtype]}, as manifests are stored in JSON."""
    return {name: Tensor(tuple(shape), str(dtype)) for name, (shape, dtype) in manifest.items()}


def check(
    leaves: Mapping[str, Leaf],
    tensors: Mapping[str, Tensor],
    params: Any,
    ignored: Sequence[str] = (),
    tied: Sequence[tuple[str, str]] = (),
) -> ConversionReport:
    """Check that every parameter gets a tensor of its shape, and that every tensor is used once, ignored or tied.

    Args:
        leaves: the port's mapping, by path in the NNX state.
        tensors: what the checkpoint holds.
        params: the parameters as shapes.
        ignored: regular expressions that match whole names.
        tied: pairs (kept, dropped) of names.

    Returns:
        The mapped and the ignored names, and the tied pairs of which the checkpoint holds both.

    Raises:
        R2T2Error: something does not fit; the message lists every problem.
    """
    parameter_shapes = {path: tuple(leaf.shape) for path, leaf in named(params).items()}
    uses = Counter(name for leaf in leaves.values() for name in leaf.names)
    pairs = tuple((kept, dropped) for kept, dropped in tied if kept in tensors and dropped in tensors)
    dropped = {name for _, name in pairs}
    known = tuple(
        name for name in tensors if name not in uses and any(re.fullmatch(pattern, name) for pattern in ignored)
    )
    problems = [
        *(f"unmapped: {name}" for name in sorted(set(tensors) - set(uses) - set(known) - dropped)),
        *(f"missing from the checkpoint: {name}" for name in sorted(set(uses) - set(tensors))),
        *(f"mapped {count} times: {name}" for name, count in sorted(uses.items()) if count > 1),
        *(f"both mapped and dropped as tied: {name}" for name in sorted(dropped & set(uses))),
        *(f"parameter not filled: {path}" for path in sorted(set(parameter_shapes) - set(leaves))),
        *(f"mapped to no parameter: {path}" for path in sorted(set(leaves) - set(parameter_shapes))),
        *_misshaped(leaves, tensors, parameter_shapes),
    ]
    if problems:
        raise R2T2Error(f"the checkpoint does not fit the model ({len(problems)} problems): {'; '.join(problems)}")
    return ConversionReport(tuple(name for name in tensors if name in uses), known, pairs)


def _misshaped(
    leaves: Mapping[str, Leaf], tensors: Mapping[str, Tensor], parameter_shapes: Mapping[str, tuple[int, ...]]
) -> list[str]:
    problems = []
    for path, leaf in leaves.items():
        if path not in parameter_shapes or any(name not in tensors for name in leaf.names):
            continue
        expected = parameter_shapes[path][1:] if leaf.stacked else parameter_shapes[path]
        if leaf.stacked and parameter_shapes[path][:1] != (len(leaf.entries()),):
            problems.append(f"{path}: {len(leaf.entries())} tensors to stack, its shape is {parameter_shapes[path]}")
        for names in leaf.entries():
            name, shapes = names[0], [tensors[name].shape for name in names]
            has = f"{name}: shape {shapes[0]}" if len(names) == 1 else f"{name} and its group: shapes {set(shapes)}"
            try:
                shape = changed_shape(leaf, *shapes)
            except (ValueError, IndexError) as error:
                problems.append(f"{has} cannot become {path} ({error})")
                continue
            if shape != expected:
                problems.append(f"{has} gives {shape}, {path} needs {expected}")
        kinds = {tensors[name].dtype for name in leaf.names}
        if leaf.dtype is None and any(kind.startswith("float8") for kind in kinds):
            problems.append(f"{path}: FP8 tensors without the scales of their blocks; convert the bfloat16 model")
        elif len(kinds) > 1 and leaf.dtype is None:
            problems.append(f"{path}: tensors of different dtypes to stack ({', '.join(sorted(kinds))})")
    return problems


def changed_shape(leaf: Leaf, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape after `leaf.change`, tried on views of one zero."""
    return _changed_shape(Leaf((), leaf.change, lazy=leaf.lazy), shapes)


@lru_cache(maxsize=1024)  # the layers of a stack have the same shapes
def _changed_shape(leaf: Leaf, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return leaf.entry(np.broadcast_to(np.zeros((), np.int8), shape) for shape in shapes).shape


def stored(leaves: Mapping[str, Leaf], tensors: Mapping[str, Tensor]) -> dict[str, tuple[Leaf, jax.ShapeDtypeStruct]]:
    """Every parameter's leaf with its shape and dtype on disk, which is the source's dtype."""
    parameters = {}
    for path, leaf in leaves.items():
        entries = leaf.entries()
        shape = changed_shape(leaf, *(tensors[name].shape for name in entries[0]))
        shape = (len(entries), *shape) if leaf.stacked else shape
        dtype = leaf.dtype or tensors[leaf.names[0]].dtype
        parameters[path] = (leaf, jax.ShapeDtypeStruct(shape, jax.numpy.dtype(dtype)))
    return parameters
