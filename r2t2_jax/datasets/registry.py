"""Question sets by name: a JSONL file by its path, a prepared set of files, or an entry of the group `r2t2.datasets`.

An entry is a function `load(split: str, n: int | None, seed: int) -> list[Sample]`. For a set that is drawn, such as
the pocket scenes, the seed draws it afresh; for a set of files it chooses which n samples are taken.
"""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.catalog import SOURCES
from r2t2_jax.datasets.jsonl import load_jsonl
from r2t2_jax.datasets.prepared import load_prepared
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import find, registered

GROUP = "r2t2.datasets"


def load_dataset(name: str, split: str = "", n: int | None = None, seed: int = 0) -> list[Sample]:
    """Samples of one split.

    Args:
        name: a set of files prepared by `r2t2 datasets prepare`, a registered set, or the path of a `.jsonl` file.
        split: which split; the sets say which they have. Empty for a set's first, and for all lines of a JSONL file.
        n: how many; `None` for the set's own number.
        seed: which ones.

    Raises:
        R2T2Error: unknown set or split, a set that is not prepared, a negative seed, a sample that cannot be read, or
            no sample at all.
    """
    if n is not None and n < 1:
        raise R2T2Error(f"the number of samples must be at least 1, not {n}")
    if seed < 0:
        raise R2T2Error(f"the seed must not be negative, as {seed} is")
    if name.endswith(".jsonl"):
        samples = load_jsonl(name, split, n, seed)
    elif name in SOURCES:
        samples = load_prepared(SOURCES[name], split, n, seed)
    elif name in registered(GROUP):
        samples = find(GROUP, name, "dataset")(split, n, seed)
    else:
        raise R2T2Error(f"unknown dataset {name!r}; known: {', '.join([*registered(GROUP), *SOURCES])}, FILE.jsonl")
    if not samples:
        raise R2T2Error(f"dataset {name!r} has no sample in split {split!r}")
    return samples
