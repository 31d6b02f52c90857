"""Tiny modules of transformers with drawn weights, and our modules filled from them."""

import jax
import numpy as np
import pytest
from flax import nnx

from ports.common.assembling import assemble
from ports.common.mapping import Leaf
from ports.common.paths import named


def tensors_of(module, seed: int = 0) -> dict[str, np.ndarray]:
    """Draw every parameter anew, norms and biases too, and return them by name."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + drawn if "norm" in name.lower() and name.endswith("weight") else drawn)
    return {name: parameter.detach().numpy() for name, parameter in module.named_parameters()}


def filled(module: nnx.Module, leaves: dict[str, Leaf], tensors: dict[str, np.ndarray]) -> nnx.Module:
    """The module with every parameter replaced; each must be named by exactly one leaf."""
    graph, state = nnx.split(module)
    assert set(named(state)) == set(leaves)
    params = assemble(leaves, tensors.__getitem__, state)
    jax.tree.map(lambda made, wanted: made.shape == wanted.shape or pytest.fail(f"{made.shape}"), params, state)
    return nnx.merge(graph, params)
