"""Batches of a run on Ray actors; the driver stays the only writer.

    with connect(config, log) as workers, open_pool(workers, program) as pool:
        for batch, rows in pool.results(run, parts, payload, names):
            run.append(batch, rows)

An actor loads its program once (`create(**arguments)` returns the function that computes a batch), gets a batch with
its payload, and returns rows and timings. A batch whose actor dies goes to another actor. A batch that kills
`MAX_DEATHS` actors is given up: once all others are computed, the run ends with an error that names its samples.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.cluster import Log, WorkerConfig, Workers, alive_nodes, autoscales, ray_options
from r2t2_jax.runs.plan import Batch
from r2t2_jax.runs.run import Run

MAX_DEATHS = 3  # actors that a batch may kill
MAX_FATAL = 3  # batches that kill `MAX_DEATHS` actors each, at which a run ends without computing the others
MAX_SLOTS = 16  # batches that an actor computes at a time
POLL = 1.0  # seconds between two looks for room for another actor
Timing = tuple[str, int, float]  # part or stage, samples, seconds
Work = Callable[[Batch, Any], Any]  # batch and payload to rows and timings


@dataclass(frozen=True)
class WorkerProgram:
    """The work of an actor: `create` is `module:function`, which returns `work(batch, payload)`.

    The returned function may have an attribute `slots`, the number of batches that the actor computes at a time.
    Arguments are pickled once per run; large numpy arrays among them go once per node through Ray's object store.
    """

    create: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Work:
        """The function that computes a batch, in this process."""
        module, _, name = self.create.partition(":")
        return getattr(import_module(module), name)(**self.arguments)


class _Worker:
    """An actor: opens the program once, then computes batches."""

    def __init__(self, program: WorkerProgram) -> None:
        self._program = program

    def open(self) -> int:
        """Load what the work needs; returns the number of batches that this actor computes at a time."""
        self._work = self._program.open()
        return min(MAX_SLOTS, getattr(self._work, "slots", 1))

    def compute(self, batch: Batch, payload: Any) -> tuple[Any, float]:
        """The result of a batch, and the seconds that it took."""
        start = time.perf_counter()
        return self._work(batch, payload), time.perf_counter() - start


@dataclass(eq=False)
class _Actor:
    """The driver's view of an actor: its handle, the batches that it takes at a time, and those that it computes."""

    handle: Any
    slots: int = 0
    batches: set[int] = field(default_factory=set)


@contextmanager
def open_pool(workers: Workers, program: WorkerProgram) -> Iterator[WorkerPool]:
    """Actors for a program; they stop at the end."""
    pool = WorkerPool(workers.ray, workers.config, program, workers.log)
    try:
        yield pool
    finally:
        pool.close()


class WorkerPool:
    """Actors that compute batches; `map` yields results in the order in which they finish."""

    def __init__(self, ray: Any, config: WorkerConfig, program: WorkerProgram, log: Log) -> None:
        self._ray, self._config, self._log = ray, config, log
        self._program = ray.put(program)
        self._class = ray.remote(_Worker).options(max_restarts=0, max_concurrency=MAX_SLOTS, **ray_options(config))
        self._growing = autoscales(ray)
        self._room, self._counted = 0, float("-inf")
        self._starting: dict[Any, _Actor] = {}  # by the reference of `open`
        self._actors: list[_Actor] = []  # that have loaded their program
        self._busy: dict[Any, tuple[_Actor, Batch]] = {}  # by the reference of `compute`
        self._deaths: Counter[int] = Counter()  # by batch number
        self._fatal: list[str] = []  # batches that were given up
        self._failed_starts = 0
        self.retried = 0

    @property
    def alive(self) -> int:
        """Actors that are ready or computing."""
        return len(self._actors)

    def __str__(self) -> str:
        """For the progress bar: `2 workers, 1 batch retried`."""
        retried = f", {self.retried} batch{'' if self.retried == 1 else 'es'} retried" if self.retried else ""
        return f"{self.alive} worker{'' if self.alive == 1 else 's'}{retried}"

    def results(
        self,
        run: Run,
        parts: Sequence[str],
        payload: Callable[[Batch], Any],
        names: Callable[[Batch], str],
        title: str = "",
        max_fatal: int = MAX_FATAL,
    ) -> Iterator[tuple[Batch, Any]]:
        """The rows of the missing batches of a run, in the order in which they finish, with a progress bar.

        The bar shows the rate, the remaining time, `run.note`, the workers and the batches that were retried.

        Args:
            run: the caller appends the rows to it.
            parts: of its plan.
            payload, names, max_fatal: as for `map`.
            title: of the progress bar.

        Raises:
            RunInterrupted: a signal was received or the time limit is reached.
            R2T2Error: as `map`.
        """
        with run.progress(parts, title) as bar:

            def check() -> None:
                run.check()
                bar.set_postfix_str(f"{self}{', ' if run.note else ''}{run.note}", refresh=False)
                bar.refresh()

            for batch, (rows, timings), seconds in self.map(run.todo(parts), payload, names, check, max_fatal):
                for timing in [*timings, (batch.part, len(batch), seconds)]:
                    run.time(*timing)
                yield batch, rows
                bar.update(len(batch))
        run.check()

    def compute(
        self,
        run: Run,
        parts: Sequence[str],
        payload: Callable[[Batch], Any],
        names: Callable[[Batch], str],
        title: str = "",
    ) -> None:
        """Compute and save the missing batches of a run; as `results`."""
        for batch, rows in self.results(run, parts, payload, names, title):
            run.append(batch, rows)

    def map(
        self,
        batches: Iterable[Batch],
        payload: Callable[[Batch], Any],
        names: Callable[[Batch], str],
        check: Callable[[], None] = lambda: None,
        max_fatal: int = MAX_FATAL,
    ) -> Iterator[tuple[Batch, Any, float]]:
        """The result and seconds of every batch, in the order in which they finish.

        Args:
            batches: the batches to compute.
            payload: what an actor needs to compute a batch, made when the batch is sent.
            names: the sample ids of a batch, for errors.
            check: called between two looks at the actors; raises to end the run.
            max_fatal: number of batches that kill `MAX_DEATHS` actors each, at which the others are not computed.

        Raises:
            R2T2Error: the work raised one, a batch killed `MAX_DEATHS` actors, or no actor could start.
        """
        waiting, self._fatal = deque(batches), []
        while waiting or self._busy:
            check()
            self._start(len(waiting) + len(self._busy))
            self._send(waiting, payload)
            finished, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=POLL)
            for reference in finished:
                if reference in self._starting:
                    self._open(reference)
                    continue
                actor, batch = self._busy.pop(reference)
                actor.batches.discard(batch.number)
                result = self._result(reference, actor, batch, names)
                if result is not None:
                    yield batch, *result
                elif self._deaths[batch.number] < MAX_DEATHS:
                    waiting.appendleft(batch)
                else:
                    self._check_fatal(max_fatal)
        self._check_fatal(1)

    def _check_fatal(self, least: int) -> None:
        """Raise if at least this number of batches was given up."""
        if len(self._fatal) >= least:
            raise R2T2Error(
                f"{'; '.join(self._fatal)}: each killed {MAX_DEATHS} workers; finished batches are saved. "
                "Leave these samples out, or give workers more memory"
            )

    def _start(self, batches: int) -> None:
        """Start actors: the configured number, or as many as the cluster has room for, at most one per batch."""
        wanted = self._config.workers
        if wanted is None:
            if time.monotonic() - self._counted > POLL:
                self._room, self._counted = self._config.room(alive_nodes(self._ray)), time.monotonic()
            wanted = max(1, self._room + self._growing)  # an autoscaler adds a node for an actor without room
        for _ in range(min(wanted, batches) - len(self._starting) - len(self._actors)):
            actor = _Actor(self._class.remote(self._program))
            self._starting[actor.handle.open.remote()] = actor

    def _send(self, waiting: deque[Batch], payload: Callable[[Batch], Any]) -> None:
        """Send batches to actors with free slots; a batch that lost its actor shares the next one with no other."""
        while waiting:
            batch = waiting[0]
            suspect = self._deaths[batch.number] > 0
            ready = [actor for actor in self._actors if self._accepts(actor, suspect)]
            if not ready:
                return
            actor = min(ready, key=lambda actor: len(actor.batches))
            self._busy[actor.handle.compute.remote(batch, payload(batch))] = actor, waiting.popleft()
            actor.batches.add(batch.number)

    def _accepts(self, actor: _Actor, suspect: bool) -> bool:
        if suspect or any(self._deaths[number] for number in actor.batches):
            return not actor.batches
        return len(actor.batches) < actor.slots

    def _open(self, reference: Any) -> None:
        """Move an actor that has loaded its program to the ready ones; an error of the program ends the run."""
        actor = self._starting.pop(reference)
        try:
            actor.slots = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._kill(actor)
            if isinstance(error.cause, R2T2Error):
                raise error.cause from error
            raise R2T2Error(f"a worker cannot load its program: {_one_line(error.cause)}") from error
        except self._ray.exceptions.RayError as error:
            self._kill(actor)
            self._failed_starts += 1
            if self._failed_starts >= MAX_DEATHS and not self.alive:
                raise R2T2Error(f"no worker could start: {_one_line(error)}") from error
            self._log(f"a worker did not start ({_one_line(error)}); starting another")
        else:
            self._failed_starts = 0
            self._actors.append(actor)

    def _result(
        self, reference: Any, actor: _Actor, batch: Batch, names: Callable[[Batch], str]
    ) -> tuple[Any, float] | None:
        """Result and seconds, or `None` if the actor died and the batch must go to another."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, R2T2Error):
                raise error.cause from error
            raise R2T2Error(f"{batch.part}: {names(batch)} failed on a worker: {_one_line(error.cause)}") from error
        except self._ray.exceptions.RayError as error:  # the actor or its node is lost, or the result's node
            if actor in self._actors:
                self._actors.remove(actor)
                self._kill(actor)
            self._deaths[batch.number] += 1
            if self._deaths[batch.number] < MAX_DEATHS:
                self.retried += 1
                self._log(f"a worker was lost in {batch.part} ({_one_line(error)}); its batch goes to another worker")
                return None
            self._fatal.append(f"{batch.part}: {names(batch)}")
            self._log(f"{self._fatal[-1]} killed {MAX_DEATHS} workers ({_one_line(error)}) and is left out")
            return None

    def _kill(self, actor: _Actor) -> None:
        with suppress(Exception):  # it is dead already, or the cluster is gone
            self._ray.kill(actor.handle)

    def close(self) -> None:
        """Stop all actors."""
        for actor in [*self._starting.values(), *self._actors]:
            self._kill(actor)
        self._starting, self._actors, self._busy = {}, [], {}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
