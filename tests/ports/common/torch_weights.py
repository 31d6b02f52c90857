"""Tiny modules of transformers with drawn weights, and our modules filled from them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.common.mapping import Leaf


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
    left = dict(leaves)

    def put(path, leaf):
        made = left.pop("/".join(str(entry.key) for entry in path if hasattr(entry, "key")))
        parts = [made.change(tensors[name]) for name in made.names]
        value = np.stack(parts) if made.stacked else parts[0]
        assert value.shape == leaf.shape
        return jnp.asarray(value)

    state = jax.tree_util.tree_map_with_path(put, state)
    assert not left
    return nnx.merge(graph, state)
