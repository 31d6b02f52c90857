"""Work for the tests of Ray workers: squares, slowly, and samples that kill their worker."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.plan import Batch

LONGEST = 60.0  # seconds that a batch waits for other processes


def create(
    power: int,
    poison: int = -1,
    refuse: int = -1,
    pids: str = "",
    processes: int = 0,
    until: str = "",
    killed: str = "",
) -> Callable[..., Any]:
    """A function that raises numbers to a power.

    `poison` kills its process, `refuse` is bad input. A process that has a batch writes its id into the folder `pids`,
    and computes when `processes` of them have one and the file `until` exists, or after `LONGEST` seconds. The process
    that creates the file `killed` is killed in its batch.
    """
    if power < 0:
        raise R2T2Error("the power must not be negative")

    def work(batch: Batch, payload: list[int]) -> list[dict[str, int]]:
        if pids:
            (Path(pids) / str(os.getpid())).touch()
        end = time.monotonic() + LONGEST
        while time.monotonic() < end and not (enough(pids, processes) and (not until or Path(until).exists())):
            time.sleep(0.05)
        if killed and created(Path(killed)):
            os.kill(os.getpid(), signal.SIGKILL)
        if poison in payload:
            os.kill(os.getpid(), signal.SIGKILL)
        if refuse in payload:
            raise R2T2Error(f"sample {refuse} has no power")
        return [{"i": i, "value": i**power} for i in payload]

    return work


def enough(pids: str, processes: int) -> bool:
    """Whether as many processes have written their ids into the folder."""
    return not pids or len(list(Path(pids).iterdir())) >= processes


def created(path: Path) -> bool:
    """Create a file; false if it exists."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
