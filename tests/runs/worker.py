"""A run in its own process, for the tests that kill it: `python worker.py FOLDER [SECONDS_PER_BATCH [POWER]]`.

The rows hold floats, and the summary compares them bit for bit.
"""

import sys
import time
from pathlib import Path

import numpy as np

from r2t2_jax.cli.main import explain
from r2t2_jax.runs.batch_files import stack
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Run

PLAN = Plan(
    [Part("a", samples=23, batch=3), Part("b", samples=20, batch=4), Part("notes", samples=3, batch=3, table="notes")]
)


def make_rows(batch: Batch, power: float) -> list[dict]:
    rows = []
    for sample in range(batch.start, batch.stop):
        rng = np.random.default_rng((len(batch.part), ord(batch.part[0]), sample))
        path = rng.random((4, 2, 3), dtype=np.float32) ** np.float32(power)
        rows.append(
            {"part": batch.part, "sample": sample, "score": float(path.sum()), "path": path, "words": ["x"] * sample}
        )
    return rows


def summary(run: Run) -> dict:
    table = run.table()
    path = stack(table["path"])
    return {
        "n": table.num_rows,
        "samples": table["sample"].to_pylist(),
        "score": [value.hex() for value in table["score"].to_pylist()],
        "path": path.tobytes().hex(),
        "notes": run.table("notes").num_rows,
    }


def main(folder: str, seconds: str = "0", power: str = "2") -> int:
    with Run.open(Path(folder), "work", {"power": float(power)}, PLAN) as run:
        for batch in run.missing():
            time.sleep(float(seconds))
            run.append(batch, make_rows(batch, float(power)))
        run.export()
        run.finish(summary(run))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except (Exception, KeyboardInterrupt) as error:
        line, code = explain(error)
        print(line, file=sys.stderr)
        sys.exit(code)
