"""Question sets by name: a JSONL file by its path, every other set by its entry in the group `r2t2.datasets`.

An entry is a function `load(split: str, n: int | None, seed: int) -> list[Sample]`. For a set that is drawn, such as
the pocket scenes, the seed draws it afresh; for a set of files it chooses which n samples are taken.
"""

from __future__ import annotations

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.jsonl import load_jsonl
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import find

GROUP = "r2t2.datasets"


def load_dataset(name: str, split: str = "", n: int | None = None, seed: int = 0) -> list[Sample]:
    """Samples of one split.

    Args:
        name: a registered set, or the path of a `.jsonl` file.
        split: which split; the sets say which they have. For a JSONL file, empty for all its lines.
        n: how many; `None` for the set's own number.
        seed: which ones.

    Raises:
        R2T2Error: unknown set or split, a negative seed, a sample that cannot be read, or no sample at all.
    """
    if n is not None and n < 1:
        raise R2T2Error(f"the number of samples must be at least 1, not {n}")
    if seed < 0:
        raise R2T2Error(f"the seed must not be negative, as {seed} is")
    if name.endswith(".jsonl"):
        samples = load_jsonl(name, split, n, seed)
    else:
        samples = find(GROUP, name, "dataset")(split, n, seed)
    if not samples:
        raise R2T2Error(f"dataset {name!r} has no sample in split {split!r}")
    return samples
