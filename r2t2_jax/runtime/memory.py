"""Memory sizes: parsed from text such as `24GB`, formatted, and counted over arrays."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.errors import R2T2Error

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def parse_size(text: str) -> int:
    """Bytes: `24GB` is 24 times 10^9, `24GiB` is 24 times 2^30. Case is ignored.

    Raises:
        R2T2Error: not a positive number with one of the units.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    units = {unit.lower(): factor for unit, factor in UNITS.items()}
    if not match or match[2].lower() not in units or not float(match[1]):
        raise R2T2Error(f"{text!r} is no size of memory; write a number and one of {', '.join(UNITS)}, as in 24GB")
    return int(float(match[1]) * units[match[2].lower()])


def format_size(count: int) -> str:
    """Three digits and a decimal unit: `1.25 GB`."""
    for unit in ("TB", "GB", "MB", "KB"):
        if count >= UNITS[unit]:
            share = count / UNITS[unit]
            return f"{share:.{max(0, 2 - int(np.log10(share)))}f} {unit}"
    return f"{count} B"


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays or shape structs; PRNG keys count as their data."""
    leaves = jax.tree.leaves(tree)
    arrays = [
        jax.eval_shape(jax.random.key_data, leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in leaves
    ]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
