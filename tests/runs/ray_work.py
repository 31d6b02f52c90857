"""Work for the tests of Ray workers: squares, slowly, and samples that kill their worker."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.plan import Batch


def create(
    power: int,
    poison: int = -1,
    refuse: int = -1,
    pids: str = "",
    seconds: float = 0.0,
    processes: int = 0,
    killed: str = "",
) -> Callable[..., Any]:
    """A function that raises numbers to a power.

    `poison` kills its process, `refuse` is bad input. A process that has a batch writes its id into the folder `pids`,
    and computes when `processes` of them have one. The process that creates the file `killed` is killed in its batch.
    """
    if power < 0:
        raise R2T2Error("the power must not be negative")

    def work(batch: Batch, payload: list[int]) -> list[dict[str, int]]:
        if pids:
            (Path(pids) / str(os.getpid())).touch()
        time.sleep(seconds)
        while pids and len(list(Path(pids).iterdir())) < processes:
            time.sleep(0.05)
        if killed and created(Path(killed)):
            os.kill(os.getpid(), signal.SIGKILL)
        if poison in payload:
            os.kill(os.getpid(), signal.SIGKILL)
        if refuse in payload:
            raise R2T2Error(f"sample {refuse} has no power")
        return [{"i": i, "value": i**power} for i in payload]

    return work


def created(path: Path) -> bool:
    """Create a file; false if it exists."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
