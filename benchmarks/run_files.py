"""Files, bytes and times of a run with a million rows: `python -m benchmarks.run_files`.

A batch of `r2t2 eval` with `base` and `ngd` on 32 questions of the pocket model is computed once; its rows, with other
ids, are then saved again and again as the batches of one run, the first 500 of them synced to disk as a run does.
Measured are the files, the time to save a batch, and the times to open the run for reading, to resume it, to read all
rows and to export them as one table; CPU time too, because it depends less on other processes. The results go to
`benchmarks/results/run_files.json`.
"""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro

from benchmarks.throughput import BENCHMARK, open_pocket, run_evaluation
from r2t2_jax.evaluation.benchmark import PLAN_BATCH
from r2t2_jax.runs.batch_files import BATCHES, read_batch, saved_batches, write_table
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run

RESULTS = Path(__file__).parent / "results" / "run_files.json"
MEGABYTE = 1e6
SYNCED = 500  # batches that are saved as a run saves them; the others only have the same bytes


def main(rows: int = 1_000_000, machine: str = "2 CPU cores", out: Path = RESULTS) -> None:
    """Measure, and write the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch = compute_batch(folder / "one")
        plan = Plan([Part(BENCHMARK, rows * PLAN_BATCH // len(batch), PLAN_BATCH)])
        run = folder / "run"
        with Run.open(run, "eval", {}, plan) as opened:  # writes run.json
            opened.append(plan.batches[0], batch.to_pylist())
        paths = [run / BATCHES / f"{number:05d}.parquet" for number in range(len(plan.batches))]
        seconds = [save(path, batch, number, write_table) for number, path in enumerate(paths[:SYNCED])]
        for number, path in enumerate(paths[SYNCED:], SYNCED):
            save(path, batch, number, write_unsynced)
        files = saved_batches(run).values()
        results = {
            "machine": machine,
            "date": datetime.date.today().isoformat(),
            "load": round(os.getloadavg()[1], 1),
            "rows": len(batch) * len(plan.batches),
            "rows_per_file": len(batch),
            "files": len(files),
            "megabytes": round(sum(path.stat().st_size for path in files) / MEGABYTE, 1),
            "save_a_batch": {"seconds": round(float(np.median(seconds)), 4)},
            "open": measure(lambda: (open_run(run), saved_batches(run))),
            "resume": measure(lambda: resume(run, plan)),
            "read_all_rows": measure(lambda: open_run(run).rows),
            "export": measure(lambda: export(run, plan)),
        }
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


def compute_batch(folder: Path) -> pa.Table:
    """The rows of one batch of an evaluation."""
    job = open_pocket(PLAN_BATCH, references=600)
    run_evaluation(job, folder)
    (table,) = (read_batch(path) for path in saved_batches(folder).values() if is_evaluation(path))
    return table


def is_evaluation(path: Path) -> bool:
    """Whether a batch file holds rows of strategies, and not the references."""
    return "strategy" in read_batch(path).column_names


def save(path: Path, batch: pa.Table, number: int, write: Callable[[Path, pa.Table], None]) -> float:
    """Save the rows under other ids as one batch; returns the seconds."""
    start = time.perf_counter()
    ids = pa.array([f"{number}-{i % PLAN_BATCH}" for i in range(len(batch))])
    write(path, batch.set_column(batch.column_names.index("id"), "id", ids))
    return time.perf_counter() - start


def write_unsynced(path: Path, table: pa.Table) -> None:
    """Write the bytes of `write_table` without waiting for the disk."""
    pq.write_table(table, path, write_page_checksum=True)


def resume(run: Path, plan: Plan) -> None:
    """Open the run for writing, and list the missing batches."""
    with Run.open(run, "eval", {}, plan) as opened:
        assert not opened.todo([BENCHMARK])


def export(run: Path, plan: Plan) -> None:
    """Write all rows as one file."""
    with Run.open(run, "eval", {}, plan) as opened:
        opened.export()


def measure(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds of a function."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"seconds": round(time.perf_counter() - wall, 2), "cpu_seconds": round(time.process_time() - cpu, 2)}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
