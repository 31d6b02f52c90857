"""What a model tells of samples beside its answers, as unit vectors: what its gate reads, what an image looks like.

Axis letters: n samples, H size of a vector.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r2t2_jax.contract import Features, Params, Port

Told = Literal["gate_input", "image_vector"]  # optional methods of `contract.RoutedModel`


def unit_vectors(port: Port, features: Features, told: Told) -> Float[np.ndarray, "n H"]:
    """What the model tells of each sample; every leaf of `features` has a leading axis n."""
    vectors = np.asarray(_tell(port.params, jax.tree.map(jnp.asarray, features), model=port.model, told=told))
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@partial(jax.jit, static_argnames=("model", "told"))
def _tell(params: Params, features: Features, *, model: Any, told: Told) -> Float[Array, "n H"]:
    return jax.lax.map(partial(getattr(model, told), params), features)
