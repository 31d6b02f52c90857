"""The running best of evaluated points, for searches that compare values instead of following a slope.

Axis letters: Q evaluated points.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def best_so_far(values: Float[Array, "Q"]) -> Int[Array, "Q"]:
    """For each s, which of the points 0 .. s has the lowest value; the first among equals, NaN never."""
    count = values.shape[0]
    seen = jnp.tri(count, dtype=bool)  # [Q, Q], row s sees the points up to s
    return jnp.argmin(jnp.where(seen & ~jnp.isnan(values)[None], values[None], jnp.inf), axis=1)
