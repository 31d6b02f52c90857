"""A bounded queue in front of the device: questions that wait together and fit one program go together."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace

from r2t2_jax.errors import R2T2Error
from r2t2_jax.serve.engine import AnsweredQuestion, ServedQuestion
from r2t2_jax.serve.metrics import Metrics
from r2t2_jax.serve.schemas import INTERNAL, OVERLOADED, ApiError, busy

LOGGER = logging.getLogger("r2t2.serve")
Pending = Future[AnsweredQuestion]
LINGER = 0.01  # seconds that a question waits for requests that are being read or prepared, to share a batch


def batch_sizes(largest: int) -> list[int]:
    """The sizes of batches, powers of two up to the largest: each is one compiled shape."""
    return [1 << i for i in range(largest.bit_length()) if 1 << i <= largest]


class Batcher:
    """Answers questions in batches, in the order of arrival.

    A batch has questions of one group (`ServedQuestion.group`) and a size of `batch_sizes`, so that nothing is padded.
    Groups whose strategy was not warmed up are answered one by one, so that one program is compiled for them. One batch
    runs at a time. One that is not full waits at most `LINGER` seconds for requests that are not queued yet.

    Args:
        answer: the questions of one group to their answers.
        places: requests that are read, wait or run at a time; further ones are refused.
        batch_size: the largest batch.
        metrics: counts batches and waiting questions.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[ServedQuestion]], list[AnsweredQuestion]],
        places: int,
        batch_size: int,
        metrics: Metrics,
    ) -> None:
        self._answer, self._places, self._sizes, self._metrics = answer, places, batch_sizes(batch_size), metrics
        self._waiting: deque[tuple[ServedQuestion, Pending, float]] = deque()
        self._changed = threading.Condition()
        self._warm: set[str] = set()
        self._taken, self._seconds = 0, 0.1  # requests, and the recent time per question
        self._closing, self._ready = False, False
        self._running = 0  # questions of the batch that runs
        self._thread = threading.Thread(target=self._work, name="r2t2-device", daemon=True)
        self._warming: Sequence[ServedQuestion] = ()

    def start(self, warming: Sequence[ServedQuestion] = ()) -> None:
        """Start the thread, which first answers these questions at every size, to compile their programs."""
        self._warming = warming
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are answered at once: warmed up, and not about to end."""
        return self._ready and not self._closing

    @property
    def state(self) -> str:
        """`warming`, `ready` or `draining`."""
        return "draining" if self._closing else "ready" if self._ready else "warming"

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the places, for a request from its first byte to its answer.

        Raises:
            ApiError: 429 if all are taken, 503 while the server warms up or ends.
        """
        with self._changed:
            if not self.ready:
                message = f"the server is {self.state}; try again later"
                raise ApiError(503, message, code=self.state, kind=OVERLOADED, headers={"Retry-After": "5"})
            if self._taken >= self._places:
                raise busy(min(max(1, round(self._taken * self._seconds)), 60))
            self._taken += 1
            self._metrics.in_flight.set(self._taken)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._metrics.in_flight.set(self._taken)
                self._notify()

    def _notify(self) -> None:
        """Wake the thread if it waits for questions."""
        if self._waiting and not self._running:
            self._changed.notify()

    def submit(self, question: ServedQuestion, reply: Pending | None = None) -> Pending:
        """Queue a question. Cancel the future to give up its place; a question that runs already is not stopped.

        Args:
            question: ready for the model.
            reply: the future of the answer, if the caller has one already.
        """
        reply = Future() if reply is None else reply
        with self._changed:
            self._waiting.append((question, reply, time.perf_counter()))
            self._notify()
        return reply

    def drain(self) -> None:
        """Accept no more requests, and answer those that were accepted."""
        with self._changed:
            self._closing = True

    def close(self) -> None:
        """Drain, and wait until the thread has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        for question in self._warming:
            self._warm_up(question)
        with self._changed:
            self._ready = True
            self._metrics.ready.set(1)
        while batch := self._next():
            self._run(batch)

    def _warm_up(self, question: ServedQuestion) -> None:
        """Compile the programs of a question at every size."""
        for size in self._sizes:
            if self._closing:
                return
            try:
                self._answer([question] * size)
                self._warm.add(question.choice.strategy)
            except Exception as error:
                LOGGER.warning("%s cannot be warmed up: %s", question.choice.strategy, " ".join(str(error).split()))
                return

    def _next(self) -> list[tuple[ServedQuestion, Pending]]:
        """The next batch, without cancelled questions; empty once the queue is closed and empty."""
        with self._changed:
            self._running = 0
            while not (batch := self._startable()):
                if self._closing and not self._taken and not self._waiting:
                    return []
                self._changed.wait(LINGER if self._waiting else 0.5 if self._closing else None)
            self._running = len(batch)
            chosen = {id(reply) for _, reply, _ in batch}
            self._waiting = deque(entry for entry in self._waiting if id(entry[1]) not in chosen)
        now = time.perf_counter()
        return [(replace(q, seconds={"queue": now - came, **q.seconds}), reply) for q, reply, came in batch]

    def _startable(self) -> list[tuple[ServedQuestion, Pending, float]]:
        """The questions of the next batch; none while it has to wait. Cancelled questions leave the queue."""
        while True:
            self._waiting = deque(entry for entry in self._waiting if not entry[1].cancelled())
            if not self._waiting:
                return []
            first = self._waiting[0][0]
            same = [entry for entry in self._waiting if entry[0].group == first.group]
            warm = first.choice.strategy in self._warm
            size = max(size for size in self._sizes if size <= len(same) and (warm or size == 1))
            others = self._taken > len(self._waiting)  # requests that are being read, prepared or replied to
            if warm and size < self._sizes[-1] and others and time.perf_counter() - self._waiting[0][2] < LINGER:
                return []
            batch = [entry for entry in same[:size] if entry[1].set_running_or_notify_cancel()]
            if batch:
                return batch

    def _run(self, batch: Sequence[tuple[ServedQuestion, Pending]]) -> None:
        start = time.perf_counter()
        questions = [question for question, _ in batch]
        try:
            answers = self._answer(questions)
        except Exception as error:
            if len(batch) > 1:  # one question must not fail the others
                for entry in batch:
                    self._run([entry])
                return
            batch[0][1].set_exception(_as_api_error(error))
            return
        seconds = (time.perf_counter() - start) / len(batch)
        self._seconds = 0.8 * self._seconds + 0.2 * seconds
        self._metrics.batch_size.observe(len(batch))
        for answer, (_, reply) in zip(answers, batch, strict=True):
            with suppress(Exception):  # its client is gone
                reply.set_result(answer)


def _as_api_error(error: Exception) -> ApiError:
    """The reply for an error of the evaluator; details that are not the user's go to the log only."""
    if isinstance(error, ApiError):
        return error
    LOGGER.error("a question failed", exc_info=error)
    if isinstance(error, R2T2Error):
        return ApiError(400, "the model cannot answer this question with this strategy", "messages", "invalid_value")
    memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
    reason = "the device is out of memory" if memory else "internal error"
    return ApiError(500, f"{reason}; the server's log has the details", code="internal_error", kind=INTERNAL)
