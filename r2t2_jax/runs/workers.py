"""Batches of a run on Ray actors; the driver stays the only writer.

An actor loads its program once (`create(**arguments)` returns the function that computes a batch), gets a batch with
its payload, and returns the result. A batch whose actor dies goes to another actor. A batch that kills `MAX_DEATHS`
actors ends the run with its samples named; finished batches stay saved. Ray is imported only if workers are requested.
"""

from __future__ import annotations

import json
import logging
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.interrupt import SIGNALS
from r2t2_jax.runs.plan import Batch

MAX_DEATHS = 3  # actors that a batch may kill
MISSING = "--ray needs Ray: pip install 'r2t2-jax[ray]'"
CONNECT_TIMEOUT = 10.0  # seconds
POLL = 1.0  # seconds between two looks for room for another actor


@dataclass(frozen=True)
class WorkerConfig:
    """Where workers run.

    Args:
        address: `local` for a cluster on this machine, `auto` for the cluster of this machine, or a cluster's address.
        workers: number of actors; `None` for as many as the cluster has room for, also while the run goes on.
        resources: what each actor holds: `{"GPU": 1}`, `{"TPU": 4}`, custom resources; one CPU by default.
    """

    address: str
    workers: int | None = None
    resources: Mapping[str, float] = field(default_factory=lambda: {"CPU": 1})

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise R2T2Error(f"--workers {self.workers}: give at least 1, or auto")
        for name, amount in self.resources.items():
            if isinstance(amount, bool) or not isinstance(amount, int | float) or not amount > 0:
                raise R2T2Error(f"--worker-resources: {name} must be a positive number, not {amount!r}")

    @classmethod
    def parse(cls, address: str, workers: str, resources: str, model_uri: str = "") -> WorkerConfig | None:
        """The configuration that the command line gives: `--ray`, `--workers`, `--worker-resources`.

        Returns:
            `None` without an address.

        Raises:
            R2T2Error: Ray is not installed, an option has no valid value, or is given without an address.
        """
        if not address:
            if workers != "auto" or resources or model_uri:
                raise R2T2Error(
                    "--workers, --worker-resources and --model-uri need --ray: local, auto, or the address of a cluster"
                )
            return None
        if find_spec("ray") is None:
            raise R2T2Error(MISSING)
        if workers != "auto" and not workers.isdigit():
            raise R2T2Error(f"--workers {workers!r} is neither a number nor auto")
        try:
            amounts = json.loads(resources) if resources else {"CPU": 1}
        except ValueError as error:
            raise R2T2Error(f"--worker-resources is not JSON ({error}); write for example '{{\"GPU\": 1}}'") from error
        if not isinstance(amounts, dict) or not amounts:
            raise R2T2Error("--worker-resources must be a JSON object such as '{\"GPU\": 1}'")
        return cls(address, None if workers == "auto" else int(workers), amounts)

    def describe(self) -> str:
        """One line for a dry run."""
        count = "as many workers as fit" if self.workers is None else f"{self.workers} workers"
        resources = ", ".join(f"{amount:g} {name}" for name, amount in self.resources.items())
        return f"ray         {count} on the cluster {self.address!r}, {resources} each"


@dataclass(frozen=True)
class WorkerProgram:
    """The work of an actor: `create` is `module:function`, which returns `work(batch, payload)`.

    Arguments are pickled once per run; large numpy arrays among them go once per node through Ray's object store.
    """

    create: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Callable[[Batch, Any], Any]:
        """The function that computes a batch, in this process."""
        module, _, name = self.create.partition(":")
        return getattr(import_module(module), name)(**self.arguments)


class _Worker:
    """An actor: opens the program once, then computes batches."""

    def __init__(self, program: WorkerProgram) -> None:
        self._program = program

    def open(self) -> None:
        """Load what the work needs."""
        self._work = self._program.open()

    def compute(self, batch: Batch, payload: Any) -> tuple[Any, float]:
        """The result of a batch, and the seconds that it took."""
        start = time.perf_counter()
        return self._work(batch, payload), time.perf_counter() - start


@contextmanager
def cluster(config: WorkerConfig) -> Iterator[Any]:
    """Connect to the cluster, and disconnect at the end; yields the module `ray`.

    Raises:
        R2T2Error: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise R2T2Error(MISSING) from error
    mine = not ray.is_initialized()
    if mine:
        _check_reachable(config.address)
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            ray.init(
                address=config.address,
                include_dashboard=False if config.address == "local" else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            message = " ".join(str(error).split())[:300]
            raise R2T2Error(f"cannot reach the Ray cluster {config.address!r}: {message}") from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray installs its own; a run ends after the batch
                signal.signal(number, handler)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address `HOST:PORT` at which nothing listens; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    if "//" in address or not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT).close()
    except OSError as error:
        raise R2T2Error(f"cannot reach the Ray cluster {address!r}: {error.strerror or error}") from error


class WorkerPool:
    """Actors that compute batches; `map` yields results in the order in which they finish."""

    def __init__(self, ray: Any, config: WorkerConfig, program: WorkerProgram, log: Callable[[str], None]) -> None:
        self._ray, self._config, self._log = ray, config, log
        self._program = ray.put(program)
        amounts = dict(config.resources)
        options = {"num_cpus": amounts.pop("CPU", 0), "num_gpus": amounts.pop("GPU", 0), "resources": amounts}
        self._actor = ray.remote(_Worker).options(max_restarts=0, **options)
        self._starting: dict[Any, Any] = {}  # reference of `open` -> actor
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, Batch]] = {}  # reference of `compute` -> actor and batch
        self._deaths: Counter[int] = Counter()  # by batch number
        self._failed_starts = 0
        self.retried = 0

    @property
    def alive(self) -> int:
        """Actors that are ready or computing."""
        return len(self._idle) + len(self._busy)

    def map(
        self,
        batches: Iterable[Batch],
        payload: Callable[[Batch], Any],
        names: Callable[[Batch], str],
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[Batch, Any, float]]:
        """The result and seconds of every batch, in the order in which they finish.

        Args:
            batches: the batches to compute.
            payload: what an actor needs to compute a batch, made when the batch is sent.
            names: the sample ids of a batch, for errors.
            check: called between two looks at the actors; raises to end the run.

        Raises:
            R2T2Error: the work raised one, a batch killed `MAX_DEATHS` actors, or no actor could start.
        """
        waiting = deque(batches)
        try:
            while waiting or self._busy:
                check()
                self._start(len(waiting) + len(self._busy))
                while waiting and self._idle:
                    actor, batch = self._idle.pop(), waiting.popleft()
                    self._busy[actor.compute.remote(batch, payload(batch))] = actor, batch
                finished, _ = self._ray.wait([*self._starting, *self._busy], num_returns=1, timeout=POLL)
                for reference in finished:
                    if reference in self._starting:
                        self._open(reference)
                        continue
                    actor, batch = self._busy.pop(reference)
                    result = self._result(reference, batch, names)
                    if result is None:
                        waiting.appendleft(batch)
                        continue
                    self._idle.append(actor)
                    yield batch, *result
        finally:
            self.close()

    def _start(self, batches: int) -> None:
        """Start actors: the configured number, or as many as the cluster has room for, at most one per batch."""
        running = len(self._starting) + self.alive
        if self._config.workers is not None:
            wanted = min(self._config.workers, batches) - running
        elif running == 0 or (not self._starting and self._room()):
            wanted = min(1, batches - running)
        else:
            wanted = 0
        for _ in range(wanted):
            actor = self._actor.remote(self._program)
            self._starting[actor.open.remote()] = actor

    def _room(self) -> bool:
        free = self._ray.available_resources()
        return all(free.get(name, 0) >= amount for name, amount in self._config.resources.items())

    def _open(self, reference: Any) -> None:
        """Move an actor that has loaded its program to the idle ones; an error of the program ends the run."""
        actor = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, R2T2Error):
                raise error.cause from error
            raise R2T2Error(f"a worker cannot load its program: {_one_line(error.cause)}") from error
        except self._ray.exceptions.RayActorError as error:
            self._failed_starts += 1
            if self._failed_starts >= MAX_DEATHS and not self.alive:
                raise R2T2Error(f"no worker could start: {_one_line(error)}") from error
            self._log(f"a worker did not start ({_one_line(error)}); starting another")
            return
        self._idle.append(actor)

    def _result(self, reference: Any, batch: Batch, names: Callable[[Batch], str]) -> tuple[Any, float] | None:
        """Result and seconds, or `None` if the actor died and the batch must go to another."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, R2T2Error):
                raise error.cause from error
            raise R2T2Error(f"{batch.part}: {names(batch)} failed on a worker: {_one_line(error.cause)}") from error
        except (exceptions.RayActorError, exceptions.OutOfMemoryError, exceptions.ObjectLostError) as error:
            self._deaths[batch.number] += 1
            if self._deaths[batch.number] >= MAX_DEATHS:
                raise R2T2Error(
                    f"{batch.part}: {names(batch)} killed {MAX_DEATHS} workers ({_one_line(error)}); finished "
                    "batches are saved. Leave these samples out, or give workers more memory"
                ) from error
            self.retried += 1
            self._log(f"a worker was lost in {batch.part} ({_one_line(error)}); its batch goes to another worker")
            return None

    def close(self) -> None:
        """Stop all actors."""
        for actor in [*self._starting.values(), *self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)
        self._starting, self._idle, self._busy = {}, [], {}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
