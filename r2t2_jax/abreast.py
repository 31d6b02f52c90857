"""Samples of a batch one by one, or several abreast.

One by one what a sample gets is the same to the last bit in any batch, and on a CPU it is the faster way too
(`benchmarks/lax_map_or_vmap.py`). An accelerator that one sample does not fill is busier with several, whose results
then differ from those of one by one as sums in another order do.

Axis letters: B samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_samples(function: Callable[[Any], Any], samples: Any, abreast: int = 1) -> Any:
    """`function` over the leading axis of every leaf, `abreast` samples at a time; traceable.

    The last ones are filled up with the first sample, so that every chunk has one shape and one program.

    Args:
        function: one sample to a tree of arrays.
        samples: every leaf with a leading axis B.
        abreast: how many are computed together; as many as there are where there are fewer.
    """
    count = len(jax.tree.leaves(samples)[0])
    abreast = min(abreast, count)
    if abreast <= 1:
        return jax.lax.map(function, samples)
    chunks = -(-count // abreast)
    split = jax.tree.map(lambda leaf: leaf.reshape(chunks, abreast, *leaf.shape[1:]), fill_up(samples, abreast))
    # Not by `lax.map(..., batch_size=abreast)`, which fails on results without an element (losses of no steps).
    mapped = jax.lax.map(jax.vmap(function), split)  # [chunks, abreast, ...]
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * abreast, *leaf.shape[2:])[:count], mapped)


def fill_up(samples: Any, divisor: int) -> Any:
    """The samples and as many copies of the first as make their number a multiple of the divisor."""
    missing = -len(jax.tree.leaves(samples)[0]) % divisor
    if not missing:
        return samples
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], missing, axis=0)]), samples)
