"""One batch of a benchmark: prepared on the host, encoded, answered by every strategy, and told as rows.

Axis letters: B test samples.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from r2t2_jax.contract import Sample
from r2t2_jax.evaluation.batches import run_batch
from r2t2_jax.evaluation.device_batch import DeviceBatch
from r2t2_jax.evaluation.devices import Group
from r2t2_jax.evaluation.evaluate import Evaluation, Setup
from r2t2_jax.evaluation.outcomes import Outcome, rows
from r2t2_jax.evaluation.questions import Prepared, encode_prepared, prepare_questions
from r2t2_jax.evaluation.recording import ANSWER, ENCODE, part_name
from r2t2_jax.runs.plan import Batch

Clock = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Seat:
    """Model, bank and strategies, on a group of devices."""

    setup: Setup
    group: Group


class Asking:
    """The rows of a benchmark's batches. They depend on nothing but the batch, wherever and whenever it is computed.

    Args:
        seats: where batches are computed in turn: model, bank and strategies on a group of devices.
        title: under which rows are reported, such as `pocket:narrow on easy_vqa`.
        benchmark: its name.
        samples: all of its questions, in the order of the plan.
        size: samples a batch; a smaller one is filled up, so that one compiled program serves all of one length.
        processes: how many share the plan's batches.
        together: how many of them the device takes at a time.
        clock: is told what took how long.
    """

    def __init__(
        self,
        seats: Sequence[Seat],
        title: str,
        benchmark: str,
        samples: Sequence[Sample],
        size: int,
        processes: int,
        together: DeviceBatch,
        clock: Clock,
    ) -> None:
        self._seats, self._title, self._benchmark = seats, title, benchmark
        self._samples, self._size, self._processes = samples, size, processes
        self._together, self._clock = together, clock
        self._compiled: dict[Any, threading.Lock | None] = {}
        self._guard = threading.Lock()

    def prepare(self, batch: Batch) -> Prepared | None:
        """What the host does while the devices are busy; nothing where it would have to wait for them."""
        seat = self._seat(batch)
        return None if seat.group.mesh is not None else self._prepare(seat, batch)

    def _prepare(self, seat: Seat, batch: Batch) -> Prepared:
        samples = self._samples[batch.start : batch.stop]
        return prepare_questions(seat.setup.port, [*samples, *[samples[-1]] * (self._size - len(samples))])

    def _seat(self, batch: Batch) -> Seat:
        return self._seats[batch.number // self._processes % len(self._seats)]

    def rows(self, batch: Batch, prepared: Prepared | None) -> list[dict[str, Any]]:
        """One row for each strategy and sample, in this order.

        Raises:
            R2T2Error: a feature is NaN, a strategy asks for what bank or model do not offer, or memory does not do for
                a single sample.
        """
        seat = self._seat(batch)
        with seat.group.taken():
            prepared = self._prepare(seat, batch) if prepared is None else prepared
            return self._together.fit(partial(self._rows, seat, batch, prepared))

    def _rows(self, seat: Seat, batch: Batch, prepared: Prepared, together: int) -> list[dict[str, Any]]:
        shapes = tuple((leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(prepared.inputs))
        with self._compiling_once((seat.group.devices, shapes, together)):
            start = time.perf_counter()
            bar = tqdm(disable=True)
            questions = encode_prepared(seat.setup.port, prepared, together, bar, abreast=seat.setup.abreast)
            self._clock(part_name(self._title, ENCODE), len(batch), time.perf_counter() - start)
            places = np.minimum(np.arange(batch.start, batch.start + self._size), batch.stop - 1)
            evaluation = seat.setup.asked(questions, places)
            routing = np.asarray(questions.queries.routing)
            return [
                row
                for name in evaluation.strategies
                for row in self._told(self._answer(evaluation, name, len(batch), together), batch, routing)
            ]

    def _answer(self, evaluation: Evaluation, name: str, n: int, together: int) -> Outcome:
        start = time.perf_counter()
        found = [
            run_batch(partial(evaluation.answer, name), first, min(first + together, n), together)
            for first in range(0, n, together)
        ]
        outcome = evaluation.outcome(name, jax.tree.map(lambda *leaves: np.concatenate(leaves), *found))
        self._clock(part_name(part_name(self._title, name), ANSWER), n, time.perf_counter() - start)
        return outcome

    def _told(self, outcome: Outcome, batch: Batch, routing: np.ndarray) -> Iterator[dict[str, Any]]:
        """The rows of other runs, and what scoring them anew takes."""
        samples = self._samples[batch.start : batch.stop]
        found = rows(outcome, self._title, samples, routing[: len(batch)], self._seats[0].setup.library.bank.records)
        for row, sample in zip(found, samples, strict=True):
            yield row | {"benchmark": self._benchmark, "options": list(sample.options), "style": sample.style}

    @contextmanager
    def _compiling_once(self, shapes: Any) -> Iterator[None]:
        """The first batch of its shapes compiles; others of the same wait for it instead of doing it again."""
        with self._guard:
            lock = self._compiled.setdefault(shapes, threading.Lock())
        if lock is None:
            yield
            return
        with lock:
            yield
        self._compiled[shapes] = None
