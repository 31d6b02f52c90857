"""Tiny modules of transformers with random weights, and JAX modules filled from them."""

from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import nnx

from ports.common.checkpoint.mapping import Leaf, assemble, named


def tensors_of(module, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw every parameter again, norms and biases included, and return them by name."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn)
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def filled(make: Callable[[], nnx.Module], leaves: dict[str, Leaf], tensors: dict[str, np.ndarray]) -> nnx.Module:
    """The module of `make` with parameters from `tensors`; exactly one leaf must name each."""
    graph, shapes = nnx.split(nnx.eval_shape(make))
    assert set(named(shapes)) == set(leaves)
    params = assemble(leaves, tensors.__getitem__, shapes)
    jax.tree.map(lambda made, wanted: made.shape == wanted.shape or pytest.fail(f"{made.shape}"), params, shapes)
    return nnx.merge(graph, params)
