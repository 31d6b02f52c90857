"""Question sets of banks and benchmarks: their samples, source and metric."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.contract import Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.registry import GROUP, load_jsonl
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import get_metric
from r2t2_jax.plugins import registered


@dataclass(frozen=True)
class QuestionSet:
    """Samples of one source in the order of their evaluation, and the name of their metric."""

    source: Source
    samples: Sequence[Sample]
    metric: str

    @property
    def digest(self) -> str:
        """A hash of ids, questions and answers."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(repr((sample.id, sample.question, sample.answers, sample.options, sample.style)).encode())
        return digest.hexdigest()[:16]


REFERENCES, TEST = "reference", "test"  # splits of sets that are generated


def load_source(source: Source) -> list[Sample]:
    """The samples of a source; raises as `load_dataset`."""
    if source.name.endswith(".jsonl") and source.images:
        return load_jsonl(source.name, source.split, source.n, source.seed, source.images)
    return load_dataset(source.name, source.split, source.n, source.seed)


def read_sets(
    names: Sequence[str], split: str | None, n: int | None, seed: int, images: str, metric: str
) -> dict[str, QuestionSet]:
    """Sets of references, each in random order, so that truncation at a limit is unbiased.

    Args:
        names: registered or prepared sets, or `.jsonl` files.
        split: `None` for `reference` of generated sets and the first split of all others.
        n: number of samples of each set; `None` for all.
        seed: of the choice and the order.
        images: image folder of `.jsonl` files; empty for the folder of each file.
        metric: name; empty for each set's official metric.

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
    """Test sets, the longest questions first.

    With this order batches need little padding, there are few lengths to compile, and a lack of memory shows at once.
    Arguments and errors are those of `read_sets`; by default the split of generated sets is `test`.
    """
    sets = {}
    for name in _distinct(names):
        read = _read(name, _split(name, split, TEST), n, seed, images, metric)
        sets[name] = replace(read, samples=sorted(read.samples, key=length, reverse=True))
    return sets


def length(sample: Sample) -> int:
    """Number of characters of a question and its options; benchmarks are ordered by it."""
    return len(sample.question) + sum(map(len, sample.options))


def _distinct(names: Sequence[str]) -> Sequence[str]:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise R2T2Error(f"dataset {name!r} is named twice")
    return names


def _split(name: str, split: str | None, drawn: str) -> str:
    """The given split; by default `drawn` of a generated set and the first split of a set of files."""
    default = drawn if name in registered(GROUP) and name not in DATASETS else ""
    return default if split is None else split


def _read(name: str, split: str, n: int | None, seed: int, images: str, metric: str) -> QuestionSet:
    source = Source(name, split, n, seed, images if name.endswith(".jsonl") else "")
    metric = metric or (DATASETS[name].metric if name in DATASETS else "exact_match")
    get_metric(metric)  # raises if it is unknown
    return QuestionSet(source, load_source(source), metric)
