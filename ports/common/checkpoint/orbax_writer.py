"""Orbax checkpoints written piece by piece, and Orbax's errors reported once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SPECIAL = "[]*?\\"
PIECE = 128 * 2**20  # bytes that are written at a time, and the largest size of a piece


@contextmanager
def single_error_report() -> Iterator[None]:
    """Suppress the additional log output of Orbax for an error that is raised.

    Orbax also logs a traceback from each of its threads, and its remaining asyncio tasks complain about a closed event
    loop or an unretrieved result. The last of these complaints come long after the error was raised, so after an error
    the hook that drops them stays installed; it drops nothing else.
    """
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    levels, hook = {name: logger.level for name, logger in loggers.items()}, sys.unraisablehook
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda report: None if "Event loop is closed" in str(report.exc_value) else hook(report)
    try:
        yield
        sys.unraisablehook = hook
    finally:
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """An absolute path of `folder` in which Orbax and TensorStore read no character as a pattern or a separator.

    They need absolute paths, take brackets for a pattern and a backslash for a slash. A folder below such a name is
    reached through a symbolic link.
    """
    absolute = Path(os.path.abspath(folder))
    if not set(SPECIAL) & set(str(absolute)):
        yield absolute
        return
    with TemporaryDirectory(prefix="r2t2-") as links:
        link = Path(links) / "checkpoint"
        link.symlink_to(absolute, target_is_directory=True)
        yield link


class CheckpointWriter:
    """Collects pieces of parameters and writes them; a parameter's pieces are stored as {path: {"0": ..., "1": ...}}.

    Args:
        folder: the checkpoint, which must not exist.
        on_bytes: called with the number of bytes that were written.
    """

    def __init__(self, folder: Path, on_bytes: Callable[[int], object]):
        self.folder, self.on_bytes = folder, on_bytes
        self._pieces: dict[str, dict[str, np.ndarray]] = {}
        self._held = 0

    def put(self, path: str, number: int, piece: np.ndarray) -> None:
        """Write a piece, now or together with later ones."""
        if self._held and self._held + piece.nbytes > PIECE:
            self._write()
        self._pieces.setdefault(path, {})[str(number)] = piece
        self._held += piece.nbytes
        if self._held >= PIECE:  # a large piece is not held while the next tensor is read
            self._write()

    def finish(self) -> None:
        """Write the remaining pieces and make the checkpoint readable."""
        from orbax.checkpoint import v1 as ocp

        if self._held:
            self._write()
        ocp.partial.finalize(self.folder)

    def _write(self) -> None:
        """Save in a separate thread and wait for it even when interrupted: Orbax would go on in the background."""
        with ThreadPoolExecutor(1) as pool:
            saving = pool.submit(self._save)
            try:
                saving.result()
            finally:
                wait([saving])
        self.on_bytes(self._held)
        self._pieces, self._held = {}, 0

    def _save(self) -> None:
        from orbax.checkpoint import v1 as ocp

        context = ocp.Context()
        context.array.saving.use_compression = False  # trained weights do not shrink
        with context:
            ocp.partial.save(self.folder, self._pieces)
