"""The sets a bank is built from, and their samples found again later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import SOURCES
from r2t2_jax.datasets.jsonl import load_jsonl
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.building import QuestionSet
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import registered

REFERENCES = "reference"  # the split that a drawn set keeps for references


def load_source(source: Source) -> list[Sample]:
    """The samples of a source; raises as `load_dataset`."""
    if source.name.endswith(".jsonl") and source.images:
        return load_jsonl(source.name, source.split, source.n, source.seed, source.images)
    return load_dataset(source.name, source.split, source.n, source.seed)


def read_sets(
    names: Sequence[str], split: str | None, n: int | None, seed: int, images: str, metric: str
) -> dict[str, QuestionSet]:
    """Each set's samples in an order drawn by the seed, so that those up to any limit are a fair choice.

    Args:
        names: registered or prepared sets, or `.jsonl` files.
        split: `None` for the split `reference` of registered sets, and the first of all others.
        n: how many samples of each; `None` for all.
        seed: of choice and order.
        images: image folder of `.jsonl` files; empty for their own.
        metric: empty for each set's official one.

    Raises:
        R2T2Error: a set is named twice or cannot be read, or the metric is unknown.
    """
    sets: dict[str, QuestionSet] = {}
    for name in names:
        if name in sets:
            raise R2T2Error(f"dataset {name!r} is named twice")
        default = REFERENCES if name in registered(GROUP) and name not in SOURCES else ""
        file = name.endswith(".jsonl")
        source = Source(name, default if split is None else split, n, seed, images if file else "")
        samples = load_source(source)
        order = np.random.default_rng(seed).permutation(len(samples))
        chosen = metric or (SOURCES[name].metric if name in SOURCES else "exact_match")
        get_metric(chosen)
        sets[name] = QuestionSet(source, [samples[i] for i in order], chosen)
    return sets
