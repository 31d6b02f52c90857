"""Long work in a folder that survives the process: a killed run resumes with the missing batches.

```python
plan = Plan([Part("squares", samples=1000, batch=50)])
with Run.open(Path("out/squares"), "squares", settings={"power": 2}, plan=plan) as run:
    for batch in run.missing():
        run.append(batch, [{"i": i, "value": np.array([i**2])} for i in range(batch.start, batch.stop)])
    run.finish({"sum": int(stack(run.table()["value"]).sum())})
```

If the process is killed, the same call with the same settings computes the missing batches only, and the summary has
the same bytes. SIGTERM, SIGINT and `max_hours` stop it after a batch by raising `RunInterrupted`, which the command
line prints before it exits with code 0. `run.compute(work)` is the same loop with the parts in parallel threads.

The files of the folder (docs/runs.md describes them in detail):

    run.json          command, settings, other dependencies of the results, plan, fingerprint; written first
    batches/          the rows of each batch, 00012.parquet
    earlier/          while a complete run is extended, its batches and its run.json
    timings.jsonl     durations of the batches
    lock              the process that is writing, while there is one
    summary.json      the numbers; written last, so a run with this file is complete

The numbers depend on the rows only, so that no restart can change them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import publish_json, remove, remove_drafts
from r2t2_jax.runs.batch_files import (
    BATCHES,
    EARLIER,
    BatchFiles,
    Row,
    export_table,
    read_batch,
    read_table,
    saved_batches,
    write_table,
)
from r2t2_jax.runs.fingerprint import check_fingerprint, fingerprinted, with_current_settings
from r2t2_jax.runs.folder import (
    RUN,
    SUMMARY,
    TIMINGS,
    FolderLock,
    Timings,
    check_folder,
    read_json,
    resume_command,
    seconds_per_sample,
)
from r2t2_jax.runs.interrupt import RunInterrupted, StopRequest
from r2t2_jax.runs.plan import Batch, Plan
from r2t2_jax.runtime.batching import worker_threads
from r2t2_jax.runtime.progress import ProgressBar, progress_bar

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Sequence[Row]
Extends = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]  # of a saved run.json and the requested one


class Run:
    """A run that is open for writing; `Run.open` opens it, and `with` closes it."""

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        plan: Plan,
        stop: StopRequest,
        lock: FolderLock,
        new_folders: Sequence[Path] = (),
        extended: bool = False,
    ) -> None:
        self.folder, self.plan = folder, plan
        self._command, self._stop, self._lock, self._new_folders = run["command"], stop, lock, new_folders
        self._batches = BatchFiles(folder, extended)
        self._extension = run if extended else None  # the run.json of an extension that has saved nothing yet
        self._guard = threading.Lock()
        self._timings = Timings(folder)
        self.note = ""  # shown by the progress bar of `missing` after its counts

    @classmethod
    def open(
        cls,
        out: Path,
        command: str,
        settings: Mapping[str, Any],
        plan: Plan,
        depends: Mapping[str, Any] | None = None,
        max_hours: float | None = None,
        extends: Extends = lambda saved, requested: False,
    ) -> Run:
        """Begin a run, resume it, or extend a complete one.

        Args:
            out: the run's folder, created if it does not exist.
            command: the command as typed after `r2t2`.
            settings: the command's options, except those that change no result (the folder, `max_hours`).
            plan: the parts to compute.
            depends: other dependencies of the results: data, fingerprints of models, `fingerprint.versions()`.
            max_hours: time limit from now.
            extends: whether a complete run with another `run.json` may be extended to the requested one. Every batch
                must then be saved again, and `earlier_rows` returns what the complete run has. The complete run stays
                as it is until the first batch is saved.

        Raises:
            R2T2Error: the folder cannot be written, holds other files or a run with other settings, or another process
                has it open.
        """
        run = fingerprinted({"command": command, "settings": settings, **(depends or {}), "plan": plan.to_json()})
        with ExitStack() as undo:
            undo.enter_context(reraise_oserror(f"cannot write {out}"))
            stop = StopRequest(max_hours)
            undo.callback(stop.close)
            check_folder(out)
            own = (out / RUN).exists()
            new_folders = [folder for folder in (out, *out.parents) if not folder.exists() or (own and folder == out)]
            undo.callback(remove_empty, new_folders)
            out.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(out)
            undo.callback(lock.release)
            remove_drafts(out)
            restore_earlier(out)
            extended = False
            if (out / RUN).exists():
                saved = with_current_settings(read_json(out / RUN))
                extended = saved != run and extends(saved, run)
                if not extended:
                    check_fingerprint(saved, run, str(out))
                elif not is_complete(out, plan):
                    raise R2T2Error(
                        f"{out} holds a run that this command would extend, and it is not complete: complete it with "
                        "its own settings first, or choose another folder"
                    )
            else:
                publish_json(out / RUN, run)
            opened = cls(out, run, plan, stop, lock, new_folders, extended)
            undo.pop_all()
        return opened

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        """Restore signal handlers and release the lock; delete the folders that `open` made if nothing was saved."""
        self._stop.close()
        empty = not (self._batches.saved or self._batches.earlier or (self.folder / SUMMARY).exists())
        if empty:
            self._batches.remove()
            for path in (self.folder / RUN, self.folder / TIMINGS):
                remove(path)
        self._lock.release()
        if empty:
            remove_empty(self._new_folders)

    @property
    def complete(self) -> bool:
        """Whether the summary is written and every batch has its file; a deleted batch is computed again."""
        return self._extension is None and is_complete(self.folder, self.plan)

    def earlier_rows(self, batch: Batch) -> pa.Table | None:
        """The rows of a batch in the complete run that this one extends; `None` if it extends none.

        Raises:
            R2T2Error: the file is damaged.
        """
        path = self._batches.earlier.get(batch.number)
        return None if path is None else read_batch(path)

    @property
    def resume(self) -> str:
        """The command that resumes this run."""
        return resume_command(self._command, self.folder)

    def todo(self, parts: Collection[str]) -> list[Batch]:
        """The batches of some parts that have no rows yet, in the order of the plan."""
        return [batch for batch in self._of(parts) if batch.number not in self._batches.saved]

    def _of(self, parts: Collection[str]) -> list[Batch]:
        return [batch for batch in self.plan.batches if batch.part in parts]

    def missing(self, parts: Sequence[str] | None = None, title: str = "", compiles: bool = True) -> Iterator[Batch]:
        """Iterate over `todo`, of all parts by default, with a progress bar; stops on signals and at the time limit.

        `title` is that of the bar, by default the command; `compiles` as for `progress_bar`.

        Raises:
            RunInterrupted: a signal was received or the time limit is reached.
        """
        parts = self.plan.names if parts is None else parts
        with self.progress(parts, title or self._command, compiles) as bar:
            for batch in self.todo(parts):
                self.check()
                start = time.perf_counter()
                yield batch
                self.time(batch.part, len(batch), time.perf_counter() - start)
                bar.set_postfix_str(self.note, refresh=False)
                bar.update(len(batch))
        self.check()

    def compute(
        self,
        work: Callable[[Batch], Rows],
        parts: Sequence[str] | None = None,
        threads: int = 1,
        title: str = "",
        compiles: bool = True,
    ) -> None:
        """Append `work(batch)` for every missing batch, parts in parallel.

        A thread that finds no other part to begin takes batches of one that is not complete. The first batch of a part
        is computed alone, since it may compile programs.

        Args:
            work: returns the rows of a batch; they must depend on the batch only.
            parts: the parts to compute, begun in this order; all by default.
            threads: number of batches computed at the same time.
            title: of the progress bar.
            compiles: as for `progress_bar`.

        Raises:
            RunInterrupted: a signal was received or the time limit is reached.
        """
        parts = self.plan.names if parts is None else parts
        failed, taking = threading.Event(), threading.Lock()
        missing = {part: iter(self.todo([part])) for part in parts}
        beginning = {part: threading.Lock() for part in parts}

        def compute_next(part: str) -> bool:
            with taking:
                batch = next(missing[part], None)
            if batch is None or failed.is_set() or self._stop.reason is not None:
                return False
            start = time.perf_counter()
            self.append(batch, work(batch))
            self.time(part, len(batch), time.perf_counter() - start)
            bar.update(len(batch))
            return True

        def compute_part(part: str) -> None:
            try:
                with beginning[part]:
                    more = compute_next(part)
                while more:
                    more = compute_next(part)
            except BaseException:
                failed.set()  # the other threads end after their batch
                raise

        with self.progress(parts, title or self._command, compiles) as bar, worker_threads(threads) as pool:
            try:
                list(pool.map(compute_part, [*parts] * threads))  # again, for those that are not complete then
            except BaseException:  # also an interruption of this thread
                failed.set()
                raise
        self.check()

    def append(self, batch: Batch, rows: Rows | pa.Table) -> None:
        """Save the rows of a batch durably; values and numpy arrays are read back bit for bit.

        Raises:
            R2T2Error: the rows cannot be written, as on a full disk; earlier batches stay saved.
        """
        with reraise_oserror(f"{self._done()} stay saved, but the next cannot be written to {self.folder}"):
            with self._guard:
                if self._extension is not None:
                    begin_extension(self.folder, self._extension, self._batches)
                    self._extension = None
            self._batches.write(batch.number, rows)

    def check(self) -> None:
        """Raise if the run must stop; called between two batches.

        Raises:
            RunInterrupted: a signal was received or the time limit is reached.
        """
        reason = self._stop.reason
        if reason is None:
            return
        if not self._batches.saved:
            raise RunInterrupted(f"{reason}: stopped before anything was saved")
        raise RunInterrupted(f"{reason}: stopped after {self._done()}. Resume with: {self.resume}")

    def table(self, name: str = "rows") -> pa.Table:
        """The rows of a table saved so far, in the order of the plan."""
        return read_table(self._batches.saved, self.plan, self.plan.of_table(name))

    def tables(self) -> Iterator[tuple[Batch, pa.Table]]:
        """Iterate over the saved batches and their rows in the order of the plan; memory holds one batch at a time."""
        for batch in self.plan.batches:
            if batch.number in self._batches.saved:
                yield batch, read_batch(self._batches.saved[batch.number])

    def rows_of(self, part: str) -> pa.Table:
        """The rows of a part saved so far."""
        return read_table(self._batches.saved, self.plan, [part])

    def time(self, part: str, samples: int, seconds: float) -> None:
        """Record a duration under the name `part`; durations of batches are recorded automatically."""
        with reraise_oserror(f"cannot write {self.folder}"):
            self._timings.add(part, samples, seconds)

    def seconds_per_sample(self) -> dict[str, float]:
        """The median seconds per sample of each part, and of each name recorded by `time`."""
        return seconds_per_sample(self.folder)

    def export(self, name: str = "rows", table: pa.Table | None = None) -> Path:
        """Write a table as `<name>.parquet`, for readers other than this package, and return the file's path.

        Args:
            name: of the table.
            table: its rows, if they are in memory; by default they are read a row group at a time.
        """
        path = self.folder / f"{name}.parquet"
        with reraise_oserror(f"cannot write {path}"):
            if table is not None:
                write_table(path, table)
            else:
                export_table(path, self._batches.saved, self.plan, self.plan.of_table(name))
        return path

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, which marks the run as complete: write all other files first.

        Raises:
            ValueError: a batch is missing, or the summary holds NaN.
        """
        if len(self._batches.saved) < len(self.plan.batches):
            raise ValueError(f"{self.folder} is not complete: {self._done()}")
        with reraise_oserror(f"cannot write {self.folder}"):
            publish_json(self.folder / SUMMARY, summary)
            remove(self.folder / EARLIER)

    def discard(self) -> None:
        """Remove all saved rows: the run cannot be completed."""
        self._batches.remove()

    def progress(self, parts: Collection[str], title: str, compiles: bool = True) -> ProgressBar:
        """A progress bar that includes the samples of earlier processes; rate and remaining time are this process's."""
        total = sum(map(len, self._of(parts)))
        done = total - sum(map(len, self.todo(parts)))
        return progress_bar(total, title, initial=done, compiles=compiles)

    def _done(self) -> str:
        return f"{len(self._batches.saved)} of {len(self.plan.batches)} batches"


def is_complete(folder: Path, plan: Plan) -> bool:
    """Whether the summary is written and every batch of the plan has its file."""
    return (folder / SUMMARY).exists() and len(saved_batches(folder)) == len(plan.batches)


def begin_extension(folder: Path, run: Mapping[str, Any], batches: BatchFiles) -> None:
    """Set the batches of a complete run aside and write the `run.json` of its extension.

    A kill at any moment leaves the complete run, which `restore_earlier` restores, or the extension, which resumes.
    """
    publish_json(folder / BATCHES / RUN, read_json(folder / RUN))
    batches.set_aside()
    publish_json(folder / RUN, run)
    tables = dict.fromkeys(part.table for part in Plan.from_json(run["plan"]).parts)
    for path in (folder / SUMMARY, *(folder / f"{table}.parquet" for table in tables)):
        remove(path)


def restore_earlier(folder: Path) -> None:
    """Undo an extension that was killed before its `run.json` was written, or complete one that was killed later."""
    earlier, batches = folder / EARLIER, folder / BATCHES
    if earlier.exists() and read_json(earlier / RUN) == read_json(folder / RUN):
        os.rename(earlier, batches)
    elif earlier.exists():
        complete = (folder / SUMMARY).exists() and len(saved_batches(folder)) == len(saved_batches(folder, EARLIER))
        remove(earlier if complete else folder / SUMMARY)
    remove(batches / RUN)


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders that are empty, in the given order."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def reraise_oserror(action: str) -> Iterator[None]:
    """Re-raise an `OSError` as an `R2T2Error` that begins with the failed action."""
    try:
        yield
    except OSError as error:
        raise R2T2Error(f"{action}: {error.strerror or error}") from error
