"""The work of `eval`, `tune` and `bank atlas` on a Ray worker: the same code as in one process."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r2t2_jax.bank.build_atlas import AtlasPlan, AtlasWork
from r2t2_jax.contract import Sample
from r2t2_jax.evaluation.batch import PreparedBatch, evaluate_batch
from r2t2_jax.evaluation.benchmark import PREPARED
from r2t2_jax.evaluation.encode import BATCH
from r2t2_jax.evaluation.feature_cache import BankArrays
from r2t2_jax.evaluation.job import Job
from r2t2_jax.evaluation.setup import ModelSource
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.workers import Timing

EMPTY_SLOT = -1  # number of the setting in a slot without one


def open_worker(source: ModelSource, bank: BankArrays, **settings: Any) -> EvalWork:
    """Load the model on this worker's devices; returns the function of a batch.

    Args:
        source: how the model is opened.
        bank: of the driver.
        settings: of the `Job`; of each benchmark only the longest question is needed.

    Raises:
        R2T2Error: as `ModelSource.open`.
    """
    ports, groups = source.open()
    return EvalWork(Job(ports=ports, groups=groups, bank=bank.open(ports[0]), **settings))


def open_atlas(source: ModelSource, bank: BankArrays, plan: AtlasPlan) -> AtlasWork:
    """The work of `r2t2 bank atlas`; raises as `ModelSource.open`."""
    (port, *_), _ = source.open()
    return AtlasWork(port.model, port.params, bank.open(port), plan)


class EvalWork:
    """Computes the rows of a batch of questions on a worker.

    While the devices compute some batches, the host prepares another one.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._replicas, self._chunk_size = job.replicas(print)
        self._locks = [threading.Lock() for _ in self._replicas]
        self._assigned = Counter[int]()  # batches, by replica
        self._guard = threading.Lock()
        self.slots = len(self._replicas) + PREPARED

    def __call__(self, batch: Batch, samples: Sequence[Sample]) -> tuple[list[dict[str, Any]], list[Timing]]:
        """The rows of the batch's samples, and the timings of its stages."""
        timings: list[Timing] = []

        def record(*timing: Any) -> None:
            timings.append(timing)

        with self._guard:
            number = min(range(len(self._replicas)), key=lambda i: self._assigned[i])
            self._assigned[number] += 1
        try:
            replicas = self._replicas[number : number + 1]
            sent = SentSamples(batch.start, samples)
            evaluator = self._job.benchmark_evaluator(batch.part, replicas, sent, self._chunk_size, record)
            prepared = evaluator.prepare(batch)
            with self._locks[number]:
                return evaluator.rows(batch, prepared), timings
        finally:
            with self._guard:
                self._assigned[number] -= 1


class SentSamples(Sequence[Sample]):
    """The samples of one batch under their positions in the question set."""

    def __init__(self, start: int, samples: Sequence[Sample]) -> None:
        self._start, self._samples = start, samples

    def __len__(self) -> int:
        return self._start + len(self._samples)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._samples[index.start - self._start : index.stop - self._start]
        return self._samples[index - self._start]


@dataclass(frozen=True)
class Assignment:
    """The measurement of a batch of a search: one strategy on questions `start` to `stop` of one model.

    `setting` is the index of the preset; without a `strategy`, the slot is empty.
    """

    model: str
    strategy: str | None
    setting: int
    start: int
    stop: int


@dataclass(frozen=True)
class TuningWork:
    """Measures assignments; the same in one process and on a Ray worker. `batches`: prepared questions, by model."""

    batches: Mapping[str, PreparedBatch]

    def rows(self, assignment: Assignment) -> list[dict[str, Any]]:
        """One row per question; a placeholder row for an empty slot."""
        labels = {"setting": assignment.setting, "model": assignment.model}
        if assignment.strategy is None:
            return [labels | {"question": EMPTY_SLOT, "right": False, "evaluations": 0}]
        (result,) = evaluate_batch(
            self.batches[assignment.model],
            [assignment.strategy],
            start=assignment.start,
            stop=assignment.stop,
            chunk_size=BATCH,
        )
        return [
            labels | {"question": assignment.start + i, "right": right, "evaluations": result.evaluations}
            for i, right in enumerate(result.right.tolist())
        ]

    def __call__(self, batch: Batch, assignment: Assignment) -> tuple[list[dict[str, Any]], list[Timing]]:
        """The rows, as a worker returns them."""
        return self.rows(assignment), []
