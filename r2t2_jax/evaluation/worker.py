"""What a worker of `r2t2 eval --ray` loads once, and how it computes a batch: the same code as in one process.

Questions travel with their batch; the bank's arrays travel once per node through Ray's object store. A model directory
that a worker does not see is fetched from `model_uri`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Port, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.benchmark import BenchmarkEvaluator, DeviceReplica
from r2t2_jax.evaluation.devices import device_groups, load_on
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.feature_cache import FeatureCache
from r2t2_jax.evaluation.setup import with_decoding, with_embedder
from r2t2_jax.methods import Method
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs.fingerprint import numerics, package_versions
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.workers import WorkerProgram
from r2t2_jax.runtime.batching import AdaptiveBatchSize

Timing = tuple[str, int, float]  # stage, samples, seconds


@dataclass(frozen=True)
class BankArrays:
    """A bank without file handles, locks or device arrays: what can be sent to another process.

    Args:
        bank: with all arrays in host memory and without a reader.
        samples: of the references, if the worker computes their features again; `None` if the bank has features.
    """

    bank: ReferenceBank
    samples: Mapping[tuple[str, str], Sample] | None

    @classmethod
    def of(cls, bank: ReferenceBank) -> BankArrays:
        """The arrays of a bank; stored features are read into memory."""
        features, answers, samples = bank.features, bank.answers, None
        if isinstance(bank.reader, FeatureCache):
            samples = bank.reader.samples
        elif bank.reader is not None:
            features, answers = bank.samples(np.arange(len(bank)))
        arrays = jax.tree.map(np.array, (features, answers, bank.routing, bank.embeddings))
        records = [dict(record) for record in bank.records]
        names = ("features", "answers", "routing", "embeddings")
        return cls(
            replace(bank, **dict(zip(names, arrays, strict=True)), records=records, reader=None, folder=None), samples
        )

    def open(self, port: Port) -> ReferenceBank:
        """The bank, for a model on this process's devices."""
        if self.samples is None:
            return self.bank
        return replace(self.bank, reader=FeatureCache(port, self.bank.records, self.samples))


@dataclass(frozen=True)
class BenchmarkInfo:
    """The title of a benchmark's rows, its metric and its longest answer, which a worker gets besides the questions."""

    title: str
    metric: str
    max_new_tokens: int


def eval_program(
    model: str,
    model_uri: str,
    embedder: str,
    mesh: str,
    port: Port,
    bank: ReferenceBank,
    strategies: Mapping[str, Method],
    benchmarks: Mapping[str, BenchmarkInfo],
    seed: int,
    batch_size: int,
    vmap_size: int,
) -> WorkerProgram:
    """The program of a worker of `r2t2 eval`; the driver's `port` and package versions are those it must have."""
    return WorkerProgram(
        "r2t2_jax.evaluation.worker:open_worker",
        {
            "model": model,
            "model_uri": model_uri,
            "embedder": embedder,
            "mesh": mesh,
            "fingerprints": (port.fingerprint, port.embedder.fingerprint),
            "versions": package_versions() | numerics(),
            "bank": BankArrays.of(bank),
            "strategies": dict(strategies),
            "benchmarks": dict(benchmarks),
            "seed": seed,
            "batch_size": batch_size,
            "vmap_size": vmap_size,
            "beams": port.beams,
        },
    )


def open_worker(
    model: str,
    model_uri: str,
    embedder: str,
    mesh: str,
    fingerprints: tuple[str, str],
    versions: Mapping[str, str],
    bank: BankArrays,
    strategies: Mapping[str, Method],
    benchmarks: Mapping[str, BenchmarkInfo],
    seed: int,
    batch_size: int,
    vmap_size: int,
    beams: int,
) -> Callable[[Batch, Sequence[Sample]], tuple[list[dict[str, Any]], list[Timing]]]:
    """Load the model on this worker's devices; returns the function of a batch.

    The function returns the rows of the batch's samples, and timings of its stages.

    Raises:
        R2T2Error: the worker has other package versions or another model than the driver, or cannot find the model.
    """
    present = package_versions() | numerics()
    different = [name for name in present if present[name] != versions.get(name)]
    if different:
        values = ", ".join(f"{name} {present[name]!r} and not {versions.get(name)!r}" for name in different)
        raise R2T2Error(f"a worker has {values}: install the versions and use the settings of the driver")
    groups = device_groups(mesh)
    loaded = with_embedder(load_on(local_model(model, model_uri), groups), embedder)
    ports = [with_decoding(port, beams) for port in loaded]
    own = (ports[0].fingerprint, ports[0].embedder.fingerprint)
    if own != tuple(fingerprints):
        raise R2T2Error(f"a worker loaded model and embedder {own}, the driver has {tuple(fingerprints)}")
    evaluator = Evaluator.create(ports[0], bank.open(ports[0]), strategies, None, seed, vmap_size)
    copies = [evaluator, *(evaluator.to_device(port) for port in ports[1:])]
    chunk_size = AdaptiveBatchSize(batch_size, print)

    def compute(batch: Batch, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[Timing]]:
        timings: list[Timing] = []
        info = benchmarks[batch.part]
        metric = get_metric(info.metric)
        replicas = [
            DeviceReplica(replace(copy, metric=metric, port=replace(port, max_new_tokens=info.max_new_tokens)), group)
            for copy, port, group in zip(copies, ports, groups, strict=True)
        ]
        sent = SentSamples(batch.start, samples)

        def record(stage: str, samples: int, seconds: float) -> None:
            timings.append((stage, samples, seconds))

        benchmark = BenchmarkEvaluator(replicas, info.title, batch.part, sent, batch_size, chunk_size, record)
        return benchmark.rows(batch, None), timings

    return compute


class SentSamples(Sequence[Sample]):
    """The samples of one batch under their positions in the benchmark."""

    def __init__(self, start: int, samples: Sequence[Sample]) -> None:
        self._start, self._samples = start, samples

    def __len__(self) -> int:
        return self._start + len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._samples[index.start - self._start : index.stop - self._start]
        return self._samples[index - self._start]


def local_model(model: str, model_uri: str) -> str:
    """The model's name or path, or the path of a copy fetched from `model_uri` if this worker does not see the path.

    Raises:
        R2T2Error: the model cannot be fetched.
    """
    if not model_uri or Path(model).is_dir():
        return model
    try:
        import fsspec
    except ImportError as error:
        raise R2T2Error("--model-uri needs fsspec: pip install 'r2t2-jax[ray]'") from error
    folder = Path(tempfile.mkdtemp(prefix="r2t2-model-"))
    try:
        filesystem, path = fsspec.core.url_to_fs(model_uri)
        filesystem.get(path.rstrip("/") + "/", str(folder) + "/", recursive=True)
    except (OSError, ValueError, ImportError) as error:
        raise R2T2Error(f"cannot fetch the model from {model_uri}: {error}") from error
    return str(folder)
