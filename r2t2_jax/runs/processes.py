"""Processes that fill one run together: each knows of the others whether they live, wait or are done.

They talk through files in the run's folder, which all of them must see, and through nothing else: no process can hang
in another's absence. `process-00001.json` says who process 1 is, how far it has come, and a number that it counts up
as long as it lives; the time of no clock is compared. A process that falls silent is named by the others, which end.

A process without a voice of its own (killed, or its host lost) is noticed after `PATIENCE` seconds; a process that is
in the middle of a long batch then has `GRACE` seconds to end by itself. Whatever was saved stays.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import remove
from r2t2_jax.runs.interrupt import RunInterrupted
from r2t2_jax.runs.plan import ProcessShard

PREFIX = "process-"
BEAT, PATIENCE, GRACE = 1.0, 20.0, 20.0  # seconds
RETRY = "What was saved stays; start all processes again to go on"

Phase = Literal["starting", "open", "done", "finished", "stopped", "failed"]
ENDED = ("finished", "stopped", "failed")


class Team:
    """One process's view of all. Open it as a context once every process runs; leaving it tells the others why."""

    def __init__(self, folder: Path, share: ProcessShard) -> None:
        self.folder, self.share = folder, share
        self._own: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "beat": 0}
        self._own |= {"phase": "starting", "said": ""}
        self._others: dict[int, dict[str, Any]] = {i: {} for i in range(share.count) if i != share.index}
        self._heard = dict.fromkeys(self._others, time.monotonic())
        self._silent: int | None = None
        self._closed = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._live, daemon=True)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.share.count == 1

    def place(self) -> Path:
        """Where this process writes its rows: the first in the run's folder, every other in one of its own there."""
        return self._places()[self.share.index]

    def places(self) -> list[Path]:
        """Where the others write theirs."""
        return [place for i, place in enumerate(self._places()) if i != self.share.index]

    def _places(self) -> list[Path]:
        return [self.folder, *(self.folder / f"{PREFIX}{i:05d}" for i in range(1, self.share.count))]

    def announce(self) -> None:
        """Say that this process is there, in place of what an earlier one said.

        Raises:
            R2T2Error: the folder cannot be written.
        """
        if self.alone:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise R2T2Error(f"cannot write {self.folder}: {error.strerror}") from error

    def __enter__(self) -> Team:
        self._heard = dict.fromkeys(self._others, time.monotonic())
        if not self.alone:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.alone:
            return
        if error is None:
            self.tell("finished")
        else:
            self.tell("stopped" if isinstance(error, RunInterrupted | KeyboardInterrupt) else "failed", str(error))
        if self.share.index == 0:
            self._leave_last()
        self._closed.set()
        self._thread.join()

    def tell(self, phase: Phase, said: str = "") -> None:
        """Let the others know how far this process has come."""
        self._own |= {"phase": phase, "said": said}
        if not self.alone:
            self._write()

    def check(self) -> None:
        """Between two batches.

        Raises:
            R2T2Error: another process failed or fell silent; names it.
            Stopped: another process was told to stop.
        """
        for index, state in list(self._others.items()):
            if state.get("phase") == "failed":
                raise R2T2Error(f"{self._name(index)} failed ({state['said'].removesuffix(RETRY).strip()}). {RETRY}")
            if state.get("phase") == "stopped":
                raise RunInterrupted(f"{self._name(index)} stopped. {RETRY}")
        if self._silent is not None:
            raise R2T2Error(self._silence(self._silent))

    def wait(self, *phases: Phase, only: int | None = None, check: Callable[[], None] | None = None) -> None:
        """Until the others, or one of them, have come to one of the phases.

        Args:
            phases: any of which will do.
            only: whom to wait for; by default all others.
            check: is asked meanwhile instead of `check`, to raise what ends the waiting.

        Raises:
            R2T2Error, Stopped: as `check`.
        """
        awaited = list(self._others) if only is None else [only]
        while not all(self._others[index].get("phase") in phases for index in awaited):
            (check or self.check)()
            time.sleep(BEAT / 10)

    def _leave_last(self) -> None:
        """The first process goes when all others have read its last word and ended, and takes the files with it."""
        patience = time.monotonic() + PATIENCE
        while time.monotonic() < patience and self._silent is None:
            if all(state.get("phase") in ENDED for state in self._others.values()):
                for index in range(self.share.count):
                    remove(self._state(index))
                break
            time.sleep(BEAT / 10)
        with suppress(OSError):  # there is a run in it
            self.folder.rmdir()

    def _live(self) -> None:
        while not self._closed.wait(BEAT):
            self._own["beat"] += 1
            self._write()
            for index in self._others:
                self._listen(index)
            if self._silent is not None and time.monotonic() - self._heard[self._silent] > PATIENCE + GRACE:
                print(f"r2t2: {self._silence(self._silent)}", file=sys.stderr, flush=True)
                os._exit(2)  # the main thread is in the middle of something that may last hours

    def _listen(self, index: int) -> None:
        try:
            state = json.loads(self._state(index).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or just being written
            state = self._others[index]
        if state != self._others[index]:
            self._others[index], self._heard[index] = state, time.monotonic()
        silent = time.monotonic() - self._heard[index] > PATIENCE
        if silent and state.get("phase") not in ENDED and self._own["phase"] not in ENDED:
            self._silent = index

    def _write(self) -> None:
        with self._writing:
            if self._closed.is_set():
                return
            self._state(self.share.index).write_text(json.dumps(self._own), encoding="utf-8")

    def _state(self, index: int) -> Path:
        return self.folder / f"{PREFIX}{index:05d}.json"

    def _name(self, index: int) -> str:
        state = self._others[index]
        return f"process {index} ({state['pid']} on {state['host']})" if state else f"process {index}"

    def _silence(self, index: int) -> str:
        if not self._others[index]:
            return f"process {index} is not to be seen in {self.folder}: that folder must be one which all hosts share"
        return f"{self._name(index)} has been silent for {PATIENCE:g} seconds: it died, or its host. {RETRY}"
