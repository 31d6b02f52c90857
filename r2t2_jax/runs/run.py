"""The engine for long work: a folder that survives whatever happens to the process that fills it.

```python
plan = Plan([Part("squares", cases=1000, batch=50)])
with Run.open(Path("out/squares"), "squares", settings={"power": 2}, plan=plan) as run:
    for batch in run.missing():
        run.append(batch, [{"i": i, "value": np.array([i**2])} for i in range(batch.start, batch.stop)])
    run.finish({"sum": int(stack(run.table()["value"]).sum())})
```

Killed at any point and begun again with the same settings, the loop goes on with the batches that are missing, and the
summary has the same bytes. SIGTERM, SIGINT and `max_hours` end it after a batch by raising `RunInterrupted`, which the
command
line prints and exits with 0. `run.compute(work)` is the same loop with parts side by side.

The folder (docs/runs.md describes it for its readers):

    run.json          command, settings, whatever else the results depend on, plan, fingerprint; written first
    shard-00000.rows  rows of the batches, appended in the order in which they were done
    timings.jsonl     how long batches took
    lock              who is writing, while somebody is
    summary.json      the numbers; written last: a run that has it is complete

Numbers depend on the rows alone, so that no restart can change them.
"""

from __future__ import annotations

import json
import shlex
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs import batch_files as columns
from r2t2_jax.runs.atomic_io import atomic_write, publish_json, remove, remove_drafts
from r2t2_jax.runs.batch_files import Shards, find_records, read_table, shard_paths
from r2t2_jax.runs.fingerprint import check_fingerprint, fingerprinted
from r2t2_jax.runs.folder import RUN, SUMMARY, FolderLock, check_folder, read_json
from r2t2_jax.runs.interrupt import RunInterrupted, StopRequest
from r2t2_jax.runs.plan import Batch, Plan, ProcessShard
from r2t2_jax.runs.processes import PREFIX, Team
from r2t2_jax.runtime.threads import worker_threads

if TYPE_CHECKING:
    import pyarrow as pa

Rows = Sequence[columns.Row]


class Run:
    """A run that is open for writing; `Run.open` makes one, and `with` closes it."""

    def __init__(
        self, folder: Path, run: Mapping[str, Any], plan: Plan, stop: StopRequest, lock: FolderLock, team: Team | None
    ) -> None:
        self.folder, self.plan, self._team = folder, plan, team
        self._command, self._stop, self._lock = run["command"], stop, lock
        self._appending = threading.Lock()
        self._shards = Shards(folder)
        self._timings = Timings(folder)
        self.note = ""  # what the progress bar of `missing` says beside its counts

    @classmethod
    def open(
        cls,
        out: Path,
        command: str,
        settings: Mapping[str, Any],
        plan: Plan,
        depends: Mapping[str, Any] | None = None,
        max_hours: float | None = None,
        team: Team | None = None,
    ) -> Run:
        """Begin a run, or go on with it.

        Args:
            out: its folder, made if need be.
            command: which one, as typed after `r2t2`.
            settings: the command's options, less those on which no result depends (the folder, `max_hours`).
            plan: what is to be computed.
            depends: what else the results depend on: data, fingerprints of models, `identity.versions()`.
            max_hours: how long to go on from here.
            team: the processes that share the run, each of which opens it; `out` is then where this one writes.

        Raises:
            R2T2Error: the folder cannot be written, holds something else or a run with other settings, or another
                process is at it.
        """
        run = fingerprinted({"command": command, "settings": settings, **(depends or {}), "plan": plan.to_json()})
        with ExitStack() as undo:
            undo.enter_context(reraise_oserror(f"cannot write {out}"))
            stop = StopRequest(max_hours)
            undo.callback(stop.close)
            check_folder(out)
            out.mkdir(exist_ok=True)
            lock = FolderLock(out)
            undo.callback(lock.release)
            remove_drafts(out)
            if (out / RUN).exists():
                check_fingerprint(read_json(out / RUN), run, str(out))
            else:
                publish_json(out / RUN, run)
            opened = cls(out, run, plan, stop, lock, team)
            undo.pop_all()
        return opened

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening to signals and let go of the folder, which vanishes if nothing was saved in it."""
        self._stop.close()
        empty = not self._shards.records and not self.complete
        if empty:
            for path in (self.folder / RUN, self.folder / NAME, *shard_paths(self.folder)):
                remove(path)
        self._lock.release()
        if empty:
            with suppress(OSError):  # somebody else's files are in it
                self.folder.rmdir()

    @property
    def complete(self) -> bool:
        """Whether the summary is written."""
        return (self.folder / SUMMARY).exists()

    @property
    def resume(self) -> str:
        """The command that goes on with this run."""
        folder = self.folder if self.share.index == 0 else self.folder.parent
        return f"r2t2 {self._command} --config {shlex.quote(str(folder / RUN))} --out {shlex.quote(str(folder))}"

    @property
    def share(self) -> ProcessShard:
        """Which batches this process computes."""
        return ProcessShard() if self._team is None else self._team.share

    def _mine(self, parts: Collection[str]) -> list[Batch]:
        return [batch for batch in self.plan.batches if batch.part in parts and self.share.has(batch)]

    def todo(self, parts: Collection[str]) -> list[Batch]:
        """Batches of some parts that have no rows yet and are for this process to compute, in the order of the plan."""
        return [batch for batch in self._mine(parts) if batch.number not in self._shards.records]

    def missing(self, parts: Sequence[str] | None = None) -> Iterator[Batch]:
        """As `todo`, of all parts by default, with a progress bar and an eye on the clock and on signals.

        Raises:
            Stopped: a signal, or the end of the hours, asked for it.
        """
        parts = self.plan.names if parts is None else parts
        with self._bar(parts, self._command) as bar:
            for batch in self.todo(parts):
                self.check()
                start = time.perf_counter()
                yield batch
                self.time(batch.part, len(batch), time.perf_counter() - start)
                bar.set_postfix_str(self.note, refresh=False)
                bar.update(len(batch))
        self.check()

    def compute(
        self, work: Callable[[Batch], Rows], parts: Sequence[str] | None = None, threads: int = 1, title: str = ""
    ) -> None:
        """Append `work(batch)` for every missing batch: parts side by side, the batches of a part in order.

        Args:
            work: the rows of a batch; they depend on nothing but the batch.
            parts: those to compute, begun in this order; all by default.
            threads: parts at a time.
            title: of the progress bar.

        Raises:
            Stopped: a signal, or the end of the hours, asked for it.
        """
        parts = self.plan.names if parts is None else parts
        failed = threading.Event()

        def go(part: str) -> None:
            for batch in self.todo([part]):
                if failed.is_set() or self._stop.reason is not None:
                    return
                start = time.perf_counter()
                self.append(batch, work(batch))
                self.time(part, len(batch), time.perf_counter() - start)
                bar.update(len(batch))

        with self._bar(parts, title or self._command) as bar, worker_threads(threads) as pool:
            try:
                list(pool.map(go, parts))
            except BaseException:
                failed.set()  # the other threads end after their batch
                raise
        self.check()

    def append(self, batch: Batch, rows: Rows) -> None:
        """Save the rows of a batch, durably: values and numpy arrays come back to the bit.

        Raises:
            R2T2Error: they cannot be written, as on a full disk; what was saved before stays.
        """
        payload = columns.to_bytes(columns.to_table(rows))
        with (
            self._appending,
            reraise_oserror(f"{self._done()} stay saved, but this one cannot be written to {self.folder}"),
        ):
            self._shards.append(batch.number, payload)

    def check(self) -> None:
        """Between two batches, or wherever else the work may end.

        Raises:
            Stopped: a signal, the end of the hours or another process asked for it.
            R2T2Error: another process of the run failed or died.
        """
        reason = self._stop.reason
        if reason is None:
            if self._team is not None:
                self._team.check()
            return
        if not self._shards.records:
            raise RunInterrupted(f"{reason}: stopped before anything was saved")
        raise RunInterrupted(f"{reason}: stopped after {self._done()}. Go on with: {self.resume}")

    def adopt(self, folder: Path) -> None:
        """Save what another process of this run has saved in its folder, as far as it is not here, and its times.

        Raises:
            R2T2Error: it cannot be written here, as on a full disk.
        """
        for number, record in sorted(find_records(folder).items()):
            if number not in self._shards.records:
                with self._appending, reraise_oserror(f"cannot write {self.folder}"):
                    self._shards.append(number, record.read())
        with reraise_oserror(f"cannot write {self.folder}"):
            self._timings.adopt(folder)

    def table(self, name: str = "rows") -> pa.Table:
        """The rows saved so far of one of the plan's tables, in the order of the plan."""
        return read_table(self._shards.records, self.plan, self.plan.of_table(name))

    def tables(self) -> Iterator[tuple[Batch, pa.Table]]:
        """The rows of every batch saved so far, in the order of the plan, for work that must not hold them all."""
        for batch in self.plan.batches:
            if batch.number in self._shards.records:
                yield batch, columns.from_bytes(self._shards.records[batch.number].read())

    def rows_of(self, part: str) -> pa.Table:
        """The rows saved so far of one part."""
        return read_table(self._shards.records, self.plan, [part])

    def time(self, what: str, cases: int, seconds: float) -> None:
        """Note the time of work; that of the batches is noted without asking."""
        with reraise_oserror(f"cannot write {self.folder}"):
            self._timings.add(what, cases, seconds)

    def seconds_per_case(self) -> dict[str, float]:
        """The median of each part, and of what `time` noted."""
        return seconds_per_case(self.folder)

    def export(self, name: str = "rows") -> Path:
        """Write a table as `<name>.parquet`, for readers that know nothing of shards."""
        import pyarrow.parquet as pq

        path, table = self.folder / f"{name}.parquet", self.table(name)
        with reraise_oserror(f"cannot write {path}"):
            atomic_write(path, lambda draft: pq.write_table(table, draft))
        return path

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`. Whatever else belongs to the run is written before.

        Raises:
            ValueError: a batch is missing, or the summary holds NaN.
        """
        if len(self._shards.records) < len(self.plan.batches):
            raise ValueError(f"{self.folder} is not complete: {self._done()}")
        with reraise_oserror(f"cannot write {self.folder}"):
            publish_json(self.folder / SUMMARY, summary)

    def _bar(self, parts: Collection[str], title: str) -> tqdm:
        """Counts cases, those of earlier processes included; the rate and the remaining time are of this one."""
        total = sum(map(len, self._mine(parts)))
        done = total - sum(map(len, self.todo(parts)))
        return tqdm(total=total, initial=done, desc=title, unit="case", leave=False, dynamic_ncols=True)

    def _done(self) -> str:
        return f"{len(self._shards.records)} of {len(self.plan.batches)} batches"


@contextmanager
def reraise_oserror(what: str) -> Iterator[None]:
    """What the system refuses, in words of ours."""
    try:
        yield
    except OSError as error:
        raise R2T2Error(f"{what}: {error.strerror or error}") from error


NAME = "timings.jsonl"


class Timings:
    """Lines of part, cases and seconds; `first` marks a process's first batch of a part, which may have compiled."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._seen: set[str] = set()
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):  # a line was torn
            self._write("\n")

    def add(self, part: str, cases: int, seconds: float) -> None:
        """Note a batch."""
        line = {"part": part, "cases": cases, "seconds": round(seconds, 6), "first": part not in self._seen}
        self._seen.add(part)
        self._write(json.dumps(line) + "\n")

    def adopt(self, folder: Path) -> None:
        """Note what another process has noted in its folder."""
        path = folder / NAME
        if path.exists():
            whole = path.read_text(encoding="utf-8").rpartition("\n")
            self._write(whole[0] + whole[1])

    def _write(self, text: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)


def seconds_per_case(folder: Path) -> dict[str, float]:
    """For each part, the median of seconds a case, of batches that were not the first where there are some."""
    later: dict[str, list[float]] = {}
    first: dict[str, list[float]] = {}
    path = folder / NAME
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:  # torn when a process was killed
            continue
        if isinstance(line, dict):
            kind = first if line["first"] else later
            kind.setdefault(line["part"], []).append(line["seconds"] / line["cases"])
    return {part: median(times) for part, times in (first | later).items()}


def fill(
    team: Team, open_run: Callable[[], Run], compute: Callable[[Run], None], finish: Callable[[Run], None]
) -> None:
    """Compute this process's share, and in the first process end the run with everybody's rows.

    The first process opens the run, so that it alone refuses other settings; the others then open folders of their own
    in it, which vanish once their rows are in the first one's and the summary is written.

    Args:
        team: all processes, open.
        open_run: opens the run at `team.place()`, the team given.
        compute: whatever is missing of this process's share; the same for all.
        finish: exports and finishes; called in the first process with all rows there.

    Raises:
        Stopped: this process or another is to stop.
        R2T2Error: another process failed or died, or whatever the three raise.
    """
    first = team.share.index == 0
    if not first:
        team.wait("open", "finished", only=0)
        if (team.folder / SUMMARY).exists():
            return
    with open_run() as run:
        if first:
            team.tell("open")
        if run.complete:
            return
        compute(run)
        if not first:
            team.tell("done")
            team.wait("finished", only=0, check=run.check)
            return
        team.wait("done", check=run.check)
        for place in team.places():
            run.adopt(place)
        finish(run)
    for path in team.folder.glob(f"{PREFIX}*/"):
        remove(path)
