"""The pocket model on questions whose ids make a worker slow, or kill it."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ports.pocket.port import load
from r2t2_jax.contract import Port, Processor, Sample

SECONDS = 1.0  # of a batch with a slow question
HOLD = "hold"  # a file next to the folder of slow questions: their batches wait until it is removed


class FaultyProcessor:
    """Notes its process in the folder that is a slow question's category; a `fatal` question kills the process."""

    def __init__(self, processor: Processor) -> None:
        self._processor = processor

    def prepare(self, params: Any, samples: Sequence[Sample]) -> Any:
        if any(sample.id.startswith("fatal") for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)
        folders = {sample.category for sample in samples if sample.category.startswith("/")}
        for folder in folders:
            (Path(folder) / str(os.getpid())).touch()
            time.sleep(SECONDS)
            while (Path(folder).parent / HOLD).exists():
                time.sleep(SECONDS / 10)
        return self._processor.prepare(params, samples)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)


def faulty() -> Port:
    """`pocket:narrow` with this processor; name and fingerprint are unchanged."""
    port = load("narrow")
    return replace(port, processor=FaultyProcessor(port.processor))
