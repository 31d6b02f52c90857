"""Processes that compute one run together: status and heartbeat of each, exchanged through files.

The processes communicate only through files in the run's folder, which all of them must see, so that no process blocks
when another one dies. `process-00001.json` holds the host, process id and phase of process 1 and a counter that it
increments while it lives; no clocks of different hosts are compared.

A process whose heartbeat stops for `HEARTBEAT_TIMEOUT` seconds is considered dead; the others name it and stop. A
process in the middle of a long batch has `GRACE` further seconds before it exits. Saved batches are kept.
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
HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, GRACE = 1.0, 20.0, 20.0  # seconds
RETRY = "Saved batches are kept; start all processes again to resume"

Phase = Literal["starting", "open", "done", "finished", "stopped", "failed"]
ENDED = ("finished", "stopped", "failed")


class ProcessGroup:
    """The processes of a run, as one of them sees them.

    Enter it as a context once every process runs; leaving the context writes the final status for the others.
    """

    def __init__(self, folder: Path, share: ProcessShard) -> None:
        self.folder, self.share = folder, share
        self._own: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "heartbeat": 0}
        self._own |= {"phase": "starting", "message": ""}
        self._others: dict[int, dict[str, Any]] = {i: {} for i in range(share.count) if i != share.index}
        self._last_heartbeat = dict.fromkeys(self._others, time.monotonic())
        self._dead: int | None = None
        self._closed = threading.Event()
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._exchange_heartbeats, daemon=True)

    @property
    def single(self) -> bool:
        """Whether there is no other process."""
        return self.share.count == 1

    def own_folder(self) -> Path:
        """The folder of this process's rows: the run's folder for the first process, a folder inside it for others."""
        return self._folders()[self.share.index]

    def other_folders(self) -> list[Path]:
        """The folders of the other processes' rows."""
        return [folder for i, folder in enumerate(self._folders()) if i != self.share.index]

    def _folders(self) -> list[Path]:
        return [self.folder, *(self.folder / f"{PREFIX}{i:05d}" for i in range(1, self.share.count))]

    def write_heartbeat(self) -> None:
        """Write the first status of this process, replacing that of an earlier attempt.

        Raises:
            R2T2Error: the folder cannot be written.
        """
        if self.single:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise R2T2Error(f"cannot write {self.folder}: {error.strerror}") from error

    def __enter__(self) -> ProcessGroup:
        self._last_heartbeat = dict.fromkeys(self._others, time.monotonic())
        if not self.single:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.single:
            return
        if error is None:
            self._end("finished")
        else:
            self._end("stopped" if isinstance(error, RunInterrupted | KeyboardInterrupt) else "failed", str(error))
        if self.share.index == 0:
            self._leave_last()
        self._stop_heartbeat()
        self._thread.join()

    def write_status(self, phase: Phase, message: str = "") -> None:
        """Write the phase of this process for the others to read."""
        self._own |= {"phase": phase, "message": message}
        if not self.single:
            self._write()

    def _end(self, phase: Phase, message: str = "") -> None:
        self._own |= {"phase": phase, "message": message}
        self._write(last=self.share.index != 0)

    def check(self) -> None:
        """Raise if another process ended early; called between two batches.

        Raises:
            R2T2Error: another process failed or died (named).
            RunInterrupted: another process was interrupted.
        """
        for index, state in list(self._others.items()):
            if state.get("phase") == "failed":
                raise R2T2Error(
                    f"{self._describe(index)} failed ({state['message'].removesuffix(RETRY).strip()}). {RETRY}"
                )
            if state.get("phase") == "stopped":
                raise RunInterrupted(f"{self._describe(index)} stopped. {RETRY}")
        if self._dead is not None:
            raise R2T2Error(self._death(self._dead))

    def wait(self, *phases: Phase, only: int | None = None, check: Callable[[], None] | None = None) -> None:
        """Wait until the other processes have reached one of the phases.

        Args:
            phases: any of these ends the waiting.
            only: index of the only process to wait for; by default all others.
            check: called while waiting instead of `self.check`; may raise to end the waiting.

        Raises:
            R2T2Error, RunInterrupted: as `check`.
        """
        awaited = list(self._others) if only is None else [only]
        while not all(self._others[index].get("phase") in phases for index in awaited):
            (check or self.check)()
            time.sleep(HEARTBEAT_INTERVAL / 10)

    def _leave_last(self) -> None:
        """The first process waits until all others have ended, then removes the status files."""
        deadline = time.monotonic() + HEARTBEAT_TIMEOUT
        while time.monotonic() < deadline and self._dead is None:
            if all(state.get("phase") in ENDED for state in self._others.values()):
                self._stop_heartbeat()
                for index in range(self.share.count):
                    remove(self._state(index))
                break
            time.sleep(HEARTBEAT_INTERVAL / 10)
        with suppress(OSError):  # it holds the run
            self.folder.rmdir()

    def _exchange_heartbeats(self) -> None:
        while not self._closed.wait(HEARTBEAT_INTERVAL):
            self._own["heartbeat"] += 1
            self._write()
            for index in self._others:
                self._read_status(index)
            if self._dead is not None and self._seconds_since_heartbeat(self._dead) > HEARTBEAT_TIMEOUT + GRACE:
                print(f"r2t2: {self._death(self._dead)}", file=sys.stderr, flush=True)
                os._exit(2)  # the main thread may be busy for hours

    def _seconds_since_heartbeat(self, index: int) -> float:
        return time.monotonic() - self._last_heartbeat[index]

    def _read_status(self, index: int) -> None:
        try:
            state = json.loads(self._state(index).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # missing, or being written
            state = self._others[index]
        if state != self._others[index]:
            self._others[index], self._last_heartbeat[index] = state, time.monotonic()
        expired = self._seconds_since_heartbeat(index) > HEARTBEAT_TIMEOUT
        if expired and state.get("phase") not in ENDED and self._own["phase"] not in ENDED:
            self._dead = index

    def _write(self, last: bool = False) -> None:
        with self._writing:
            if self._closed.is_set():
                return
            self._state(self.share.index).write_text(json.dumps(self._own), encoding="utf-8")
            if last:  # the first process may remove the folder from now on
                self._closed.set()

    def _stop_heartbeat(self) -> None:
        with self._writing:
            self._closed.set()

    def _state(self, index: int) -> Path:
        return self.folder / f"{PREFIX}{index:05d}.json"

    def _describe(self, index: int) -> str:
        state = self._others[index]
        return f"process {index} ({state['pid']} on {state['host']})" if state else f"process {index}"

    def _death(self, index: int) -> str:
        if not self._others[index]:
            return f"process {index} has no file in {self.folder}: all hosts must share this folder"
        return (
            f"{self._describe(index)} sent no heartbeat for {HEARTBEAT_TIMEOUT:g} seconds: it or its host died. {RETRY}"
        )
