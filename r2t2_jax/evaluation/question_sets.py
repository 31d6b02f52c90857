"""The sets a bank is built from, and their samples found again later."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.jsonl import load_jsonl
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import registered


@dataclass(frozen=True)
class QuestionSet:
    """Samples of one source, in the order in which they are asked, and the name of the metric that scores them."""

    source: Source
    samples: Sequence[Sample]
    metric: str

    @property
    def digest(self) -> str:
        """Changes with ids, questions and answers."""
        found = hashlib.sha256()
        for sample in self.samples:
            found.update(repr((sample.id, sample.question, sample.answers, sample.options, sample.style)).encode())
        return found.hexdigest()[:16]


REFERENCES, TEST = "reference", "test"  # the splits that a drawn set keeps for them


def load_source(source: Source) -> list[Sample]:
    """The samples of a source; raises as `load_dataset`."""
    if source.name.endswith(".jsonl") and source.images:
        return load_jsonl(source.name, source.split, source.n, source.seed, source.images)
    return load_dataset(source.name, source.split, source.n, source.seed)


def read_sets(
    names: Sequence[str], split: str | None, n: int | None, seed: int, images: str, metric: str
) -> dict[str, QuestionSet]:
    """References: each set's samples in an order drawn by the seed, so that those up to any limit are a fair choice.

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
    sets = {}
    for name in _distinct(names):
        read = _read(name, _split(name, split, REFERENCES), n, seed, images, metric)
        order = np.random.default_rng(seed).permutation(len(read.samples))
        sets[name] = replace(read, samples=[read.samples[i] for i in order])
    return sets


def read_benchmarks(
    names: Sequence[str], split: str | None, n: int | None, seed: int, images: str, metric: str
) -> dict[str, QuestionSet]:
    """Test sets: the longest questions first.

    So a batch pads little, few lengths meet, and what does not fit into memory shows at once.

    Arguments and errors are those of `read_sets`, but that `None` is the split `test` of registered sets.
    """
    sets = {}
    for name in _distinct(names):
        read = _read(name, _split(name, split, TEST), n, seed, images, metric)
        sets[name] = replace(read, samples=sorted(read.samples, key=length, reverse=True))
    return sets


def length(sample: Sample) -> int:
    """Letters of a question and its options, by which benchmarks are ordered."""
    return len(sample.question) + sum(map(len, sample.options))


def _distinct(names: Sequence[str]) -> Sequence[str]:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise R2T2Error(f"dataset {name!r} is named twice")
    return names


def _split(name: str, split: str | None, drawn: str) -> str:
    """The split asked for; else `drawn` of a set that is drawn, and the first of one that was read from files."""
    default = drawn if name in registered(GROUP) and name not in DATASETS else ""
    return default if split is None else split


def _read(name: str, split: str, n: int | None, seed: int, images: str, metric: str) -> QuestionSet:
    source = Source(name, split, n, seed, images if name.endswith(".jsonl") else "")
    chosen = metric or (DATASETS[name].metric if name in DATASETS else "exact_match")
    get_metric(chosen)
    return QuestionSet(source, load_source(source), chosen)
