"""Question sets of banks and benchmarks: their samples, source and metric."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from r2t2_jax.bank.manifest import Source
from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.datasets.registry import GROUP, load_jsonl
from r2t2_jax.datasets.samples import image_bytes
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import check_samples, get_metric
from r2t2_jax.plugins import registered
from r2t2_jax.runtime.batching import prefetch, usable_cores


@dataclass(frozen=True)
class QuestionSet:
    """Samples of one source in the order of their evaluation, and the name of their metric.

    `max_new_tokens` is the longest answer; `None` for the port's number for the dataset.
    """

    source: Source
    samples: Sequence[Sample]
    metric: str
    max_new_tokens: int | None = None

    @cached_property
    def digest(self) -> str:
        """A hash of everything about the samples that a result may depend on."""
        return samples_digest(self.samples)

    def answering_port(self, port: Port) -> Port:
        """The port with the longest answer that these questions allow."""
        return with_longest_answer(port, self.source.name, self.max_new_tokens)

    def shuffled(self, seed: int) -> QuestionSet:
        """The same samples in random order."""
        order = np.random.default_rng(seed).permutation(len(self.samples))
        return replace(self, samples=[self.samples[i] for i in order])

    def longest_first(self) -> QuestionSet:
        """The same samples, those of the longest questions first."""
        return replace(self, samples=sorted(self.samples, key=length, reverse=True))


def with_longest_answer(port: Port, data: str | Sequence[str], max_new_tokens: int | None) -> Port:
    """The port with this longest answer in tokens; for `None` the port's largest number for the datasets `data`."""
    names = [data] if isinstance(data, str) else data
    own = max(port.token_limits.get(name, port.max_new_tokens) for name in names)
    return replace(port, max_new_tokens=max_new_tokens or own)


def samples_digest(samples: Sequence[Sample]) -> str:
    """A hash of ids, questions, contexts, options, answers, categories, experts and images, in the samples' order."""
    digest = hashlib.sha256()
    remaining = iter(samples)
    parts = iter(lambda: list(islice(remaining, AT_A_TIME)), [])
    for texts_and_images in prefetch(_texts_and_images, parts, usable_cores()):
        digest.update(texts_and_images)
    return digest.hexdigest()[:16]


def _texts_and_images(samples: Sequence[Sample]) -> bytes:
    """The texts of samples, each with a hash of its image."""
    content = bytearray()
    for sample in samples:
        texts = (sample.id, sample.question, sample.answers, sample.options, sample.style, sample.category)
        content += repr((*texts, sample.experts)).encode() + sample.context.encode()
        content += hashlib.sha256(image_bytes(sample)).digest()
    return bytes(content)


AT_A_TIME = 64  # samples whose images a thread reads, or draws, and hashes
REFERENCES, TEST = "reference", "test"  # splits of sets that are generated
LONGEST_ANSWER = 100_000  # tokens


def load_source(source: Source) -> list[Sample]:
    """The samples of a source; raises as `load_dataset`."""
    if source.name.endswith(".jsonl") and source.images:
        return load_jsonl(source.name, source.split, source.n, source.seed, source.images)
    return load_dataset(source.name, source.split, source.n, source.seed)


def read_sets(
    names: Sequence[str],
    split: str | None,
    n: int | None,
    seed: int,
    images: str,
    metric: str,
    max_new_tokens: str = "",
) -> dict[str, QuestionSet]:
    """Sets of references, each in random order, so that truncation at a limit is unbiased.

    Args:
        names: registered or prepared sets, or `.jsonl` files.
        split: `None` for `reference` of generated sets and the first split of all others. This and the next texts may
            name single sets: `gqa=val,train` is `val` for gqa and `train` for all others.
        n: number of samples of each set; `None` for all.
        seed: of the choice and the order.
        images: image folder of `.jsonl` files; empty for the folder of each file.
        metric: name; empty for each set's default metric.
        max_new_tokens: longest answer; empty for the port's number for each set.

    Raises:
        R2T2Error: a set is named twice or cannot be read, or the metric is unknown or cannot score the set.
    """
    sets = _read_all(names, split, n, seed, images, metric, max_new_tokens, REFERENCES)
    return {name: questions.shuffled(seed) for name, questions in sets.items()}


def read_benchmarks(
    names: Sequence[str],
    split: str | None,
    n: int | None,
    seed: int,
    images: str,
    metric: str,
    max_new_tokens: str = "",
) -> dict[str, QuestionSet]:
    """Test sets, the longest questions first.

    With this order batches need little padding, there are few lengths to compile, and a lack of memory shows at once.
    Arguments and errors are those of `read_sets`; by default the split of generated sets is `test`.
    """
    sets = _read_all(names, split, n, seed, images, metric, max_new_tokens, TEST)
    return {name: questions.longest_first() for name, questions in sets.items()}


def length(sample: Sample) -> int:
    """Number of characters of a question, its context and its options; benchmarks are ordered by it."""
    return len(sample.question) + len(sample.context) + sum(map(len, sample.options))


def _distinct(names: Sequence[str]) -> Sequence[str]:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise R2T2Error(f"dataset {name!r} is named twice")
    return names


def _split(name: str, split: str | None, drawn: str) -> str:
    """The given split; by default `drawn` of a generated set and the first split of a set of files."""
    default = drawn if name in registered(GROUP) and name not in DATASETS else ""
    return default if split is None else split


def settings_by_set(option: str, text: str, names: Sequence[str]) -> dict[str, str | None]:
    """The value of a setting for each set; `None` where the text gives none.

    Args:
        option: the option's name, for errors.
        text: values separated by commas; `gqa=gqa_llava` is the value of the set `gqa`, `gqa_llava` that of all sets
            that are not named.
        names: of the sets.

    Raises:
        R2T2Error: a value is empty or used by no set, a set is unknown or named twice, or there are two values for all
            sets.
    """
    values: dict[str, str] = {}
    for entry in text.split(",") if text else ():
        name, _, value = entry.strip().rpartition("=")
        if not value:
            raise R2T2Error(f"{option} {text!r} has an empty value; write VALUE or SET=VALUE, separated by commas")
        if name and name not in names:
            raise R2T2Error(f"{option} {text!r} names {name!r}, which is not one of the sets {', '.join(names)}")
        if name in values:
            raise R2T2Error(f"{option} {text!r} has two values for {name or 'all sets'}; give one")
        values[name] = value
    if "" in values and all(name in values for name in names):
        raise R2T2Error(f"{option} {text!r} gives every set its own value, so {values['']!r} is for none: leave it out")
    return {name: values.get(name, values.get("")) for name in names}


def limits_by_set(text: str, names: Sequence[str]) -> dict[str, int | None]:
    """The longest answer in tokens of each set; `None` where the text gives none.

    Raises:
        R2T2Error: as `settings_by_set`, or a value is not a number from 1 to `LONGEST_ANSWER`.
    """
    limits = settings_by_set("--max-new-tokens", text, names)
    for limit in limits.values():
        if limit is not None and not (limit.isdecimal() and len(limit) < 9 and 0 < int(limit) <= LONGEST_ANSWER):
            raise R2T2Error(f"--max-new-tokens {limit!r} is not a number from 1 to {LONGEST_ANSWER:,}")
    return {name: None if limit is None else int(limit) for name, limit in limits.items()}


def _check_images(names: Sequence[str], images: str) -> None:
    if images and not any(name.endswith(".jsonl") for name in names):
        raise R2T2Error("--images is the image folder of .jsonl files, and no set is one: leave it out")
    if images and not Path(images).is_dir():
        raise R2T2Error(f"--images {images} is no folder")


@dataclass(frozen=True)
class _Settings:
    split: str | None
    metric: str
    max_new_tokens: int | None


def _settings(names: Sequence[str], split: str | None, metric: str, max_new_tokens: str) -> Mapping[str, _Settings]:
    """Split, metric and longest answer of each set."""
    names = _distinct(names)
    splits = dict.fromkeys(names, split) if not split else settings_by_set("--split", split, names)
    metrics = settings_by_set("--metric", metric, names)
    limits = limits_by_set(max_new_tokens, names)
    settings = {}
    for name in names:
        official = DATASETS[name].metric if name in DATASETS else "exact_match"
        settings[name] = _Settings(splits[name], metrics[name] or official, limits[name])
        get_metric(settings[name].metric)  # raises if it is unknown
    return settings


def _read_all(
    names: Sequence[str],
    split: str | None,
    n: int | None,
    seed: int,
    images: str,
    metric: str,
    max_new_tokens: str,
    drawn: str,
) -> dict[str, QuestionSet]:
    """Sets in the order of their files; `drawn` is the default split of those that are generated."""
    _check_images(names, images)
    return {
        name: _read(name, _split(name, settings.split, drawn), n, seed, images, settings)
        for name, settings in _settings(names, split, metric, max_new_tokens).items()
    }


def _read(name: str, split: str, n: int | None, seed: int, images: str, settings: _Settings) -> QuestionSet:
    source = Source(name, split, n, seed, images if name.endswith(".jsonl") else "")
    samples = load_source(source)
    check_samples(settings.metric, samples, name)
    return QuestionSet(source, samples, settings.metric, settings.max_new_tokens)


def sample_names(samples: Sequence[Sample]) -> str:
    """The ids of the samples of a batch, for errors."""
    return "samples " + ", ".join(repr(sample.id) for sample in samples)
