"""Recordings of routing: a run whose rows are samples with the router's choices at each token (docs/routes.md).

Axis letters: T recorded tokens, N layers, k chosen experts, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from r2t2_jax.contract import TOKEN_KINDS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.batch_files import read_batch, row_count, saved_batches
from r2t2_jax.runs.folder import SUMMARY
from r2t2_jax.runs.reading import open_run, refuse_damaged
from r2t2_jax.runtime.typed_json import open_json

SELECTIONS = ("last", "prompt", "answer", "all")
NO_EXPERT = -1  # id of a token without a route, as the last token of other tools' records
FORMAT = 1
KEY = "routes"  # of the facts in summary.json


@dataclass(frozen=True)
class SampleRoutes:
    """The recorded routes of one sample.

    Args:
        id, source, category: of the sample; `source` is its set or file.
        prediction: the answer of the model that was recorded.
        tokens: token ids; -1 if they are not known.
        positions: places of the tokens in the sequence of prompt and answer, without padding.
        kinds: `text`, `image` or `answer` of each token; `sample` for the routing that all tokens share.
        experts: ids, `NO_EXPERT` at tokens without a route.
        weights: float16 combine weights; `None` for a recording of ids only.
        logits: float16 logits of the gates, or `None`.
        agreement: for weights that a model recomputed, the share of the experts that its gates choose too.
    """

    id: str
    source: str
    category: str
    prediction: str
    tokens: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "T"]
    kinds: Sequence[str]
    experts: Int[np.ndarray, "T N k"]
    weights: Float[np.ndarray, "T N k"] | None = None
    logits: Float[np.ndarray, "T N E"] | None = None
    agreement: Float[np.ndarray, "N"] | None = None


@dataclass(frozen=True)
class RecordingFacts:
    """The facts about a recording that its summary holds.

    Args:
        format: version of the files.
        layers: names of the N layers.
        experts: names of the E experts.
        top_k: number of experts of a token.
        tokens: which tokens are recorded: `last`, `prompt`, `answer` or `all`.
        weights, logits: whether these are recorded.
        samples: number of samples.
        kinds: number of recorded tokens by kind.
        agreement: for weights that a model recomputed, the share of the tokens' experts that its gate chooses too, by
            layer; `None` for others.
    """

    format: int
    layers: tuple[str, ...]
    experts: tuple[str, ...]
    top_k: int
    tokens: str
    weights: bool
    logits: bool
    samples: int
    kinds: dict[str, int]
    agreement: tuple[float, ...] | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a token's ids, weights and logits, before compression."""
        layers, each = len(self.layers), 2 if not self.weights else 4
        return layers * (self.top_k * each + (2 * len(self.experts) if self.logits else 0))

    def summary(self) -> dict[str, Any]:
        """The content of `summary.json`."""
        return {KEY: {name: value for name, value in asdict(self).items() if value is not None}}


def routes_table(samples: Sequence[SampleRoutes]) -> pa.Table:
    """The samples as rows; ids, weights and logits are lists over tokens of fixed-size lists [N] of [k] or [E]."""
    columns: dict[str, Any] = {
        name: pa.array([getattr(sample, name) for sample in samples], pa.string())
        for name in ("id", "source", "category", "prediction")
    }
    columns["tokens"] = _lists([sample.tokens.astype(np.int32) for sample in samples])
    columns["positions"] = _lists([sample.positions.astype(np.int32) for sample in samples])
    columns["kinds"] = pa.array([list(sample.kinds) for sample in samples], pa.list_(pa.string()))
    columns["experts"] = _lists([sample.experts.astype(np.int16) for sample in samples])
    for name in ("weights", "logits"):
        arrays = [array for sample in samples if (array := getattr(sample, name)) is not None]
        if arrays:
            columns[name] = _lists([array.astype(np.float16) for array in arrays])
    if shares := [sample.agreement for sample in samples if sample.agreement is not None]:
        columns["agreement"] = pa.array([share.astype(np.float32) for share in shares], pa.list_(pa.float32()))
    return pa.table(columns)


def _lists(arrays: Sequence[np.ndarray]) -> pa.Array:
    """A column of arrays [T, ...] that differ in T only."""
    values = pa.array(np.concatenate([array.reshape(-1) for array in arrays]))
    for size in reversed(arrays[0].shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _arrays(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The arrays of a column that `_lists` made."""
    lists = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    lengths, values, shape = lists.value_lengths().to_pylist(), lists.flatten(), []
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    whole = values.to_numpy(zero_copy_only=False).reshape(-1, *shape)
    return np.split(whole, np.cumsum(lengths)[:-1])


@dataclass(frozen=True)
class Recording:
    """A complete recording; its samples are read batch by batch."""

    folder: Path
    facts: RecordingFacts

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """Open a recording.

        Raises:
            R2T2Error: the folder holds no complete recording, or one in another format.
        """
        run = open_run(folder)
        if KEY not in run.summary:
            raise R2T2Error(
                f"{folder} holds a run of r2t2 {run.run['command']}, not a recording: r2t2 routes record makes one"
            )
        remedy = "record again in another folder"
        source = open_json(folder / SUMMARY, remedy)
        facts = source.as_type(_Summary).routes
        if facts.format != FORMAT:
            raise source.error(f"a recording of format {facts.format}, this version reads {FORMAT}")
        if facts.tokens not in SELECTIONS or not set(facts.kinds) <= set(TOKEN_KINDS):
            raise source.error(f"a recording of the tokens {facts.tokens!r} of kinds {', '.join(facts.kinds)}")
        rows = sum(map(row_count, saved_batches(folder).values()))
        if rows != facts.samples:
            raise source.error(f"{facts.samples:,} samples, and the batches hold {rows:,}")
        return cls(folder, facts)

    def __iter__(self) -> Iterator[SampleRoutes]:
        return self.samples()

    def samples(self) -> Iterator[SampleRoutes]:
        """Iterate over the samples in the order of recording; memory holds one batch.

        Raises:
            R2T2Error: a file is damaged.
        """
        for path in saved_batches(self.folder).values():
            with refuse_damaged(self.folder):
                yield from self._rows(read_batch(path))

    def _rows(self, table: pa.Table) -> Iterator[SampleRoutes]:
        facts, count = self.facts, len(table)
        arrays = {name: _arrays(table[name]) for name in ("tokens", "positions", "experts")}
        for name, recorded in (("weights", facts.weights), ("logits", facts.logits)):
            arrays[name] = _arrays(table[name]) if recorded else [None] * count  # type: ignore[list-item]
        texts = {name: table[name].to_pylist() for name in ("id", "source", "category", "prediction", "kinds")}
        for i in range(count):
            sample = SampleRoutes(**{name: column[i] for name, column in (texts | arrays).items()})
            _check_sample(sample, facts)
            yield sample

    def sample(self, name: str | None) -> SampleRoutes:
        """The sample of this id; the first for `None`.

        Raises:
            R2T2Error: there is none.
        """
        first = ""
        for sample in self.samples():
            if name in (None, sample.id):
                return sample
            first = first or sample.id
        raise R2T2Error(f"{self.folder} has no sample {name!r}; the first is {first!r}")


def _check_sample(sample: SampleRoutes, facts: RecordingFacts) -> None:
    """Check the types, shapes and values of a sample that was read; raises `ValueError`."""
    named = f"sample {sample.id!r}"
    if not all(isinstance(text, str) for text in (sample.id, sample.source, sample.category, sample.prediction)):
        raise ValueError(f"{named} has texts of another type")
    if not set(sample.kinds) <= set(TOKEN_KINDS):
        raise ValueError(f"{named} has tokens of unknown kinds")
    tokens, layers = len(sample.kinds), len(facts.layers)
    shapes = {
        "tokens": (np.integer, (tokens,)),
        "positions": (np.integer, (tokens,)),
        "experts": (np.integer, (tokens, layers, facts.top_k)),
        "weights": (np.floating, (tokens, layers, facts.top_k)),
        "logits": (np.floating, (tokens, layers, len(facts.experts))),
    }
    for name, (kind, shape) in shapes.items():
        array = getattr(sample, name)
        if array is not None and (array.shape != shape or not np.issubdtype(array.dtype, kind)):
            raise ValueError(f"{named} has {name} of {array.dtype} {array.shape}, not {shape}")
    ids, weights = sample.experts, sample.weights
    if ids.size and not (ids.min() >= NO_EXPERT and ids.max() < len(facts.experts)):
        raise ValueError(f"{named} names experts beyond the {len(facts.experts)} of the model")
    if weights is not None and not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{named} has weights that are NaN, infinite or negative")
    if sample.logits is not None and np.isnan(sample.logits).any():
        raise ValueError(f"{named} has logits that are NaN")


@dataclass(frozen=True)
class _Summary:
    routes: RecordingFacts


def size_on_disk(folder: Path) -> int:
    """Bytes of a recording's batch files."""
    return sum(path.stat().st_size for path in saved_batches(folder).values())
