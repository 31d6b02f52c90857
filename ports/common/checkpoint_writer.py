"""An Orbax checkpoint written piece by piece, a few pieces at a time, so that memory does not grow with the model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np

PIECE = 128 * 2**20  # bytes that are written together, and the most that one piece should have


class CheckpointWriter:
    """Collects pieces of parameters and writes them; a parameter's pieces are stored as {path: {"0": ..., "1": ...}}.

    Args:
        folder: the checkpoint, which must not exist.
        wrote: hears of the bytes that were written.
    """

    def __init__(self, folder: Path, wrote: Callable[[int], object]):
        self.folder, self.wrote = folder, wrote
        self._pieces: dict[str, dict[str, np.ndarray]] = {}
        self._held = 0

    def put(self, path: str, number: int, piece: np.ndarray) -> None:
        """Write a piece, now or with those that follow."""
        if self._held and self._held + piece.nbytes > PIECE:
            self._write()
        self._pieces.setdefault(path, {})[str(number)] = piece
        self._held += piece.nbytes

    def finish(self) -> None:
        """Write what is left, and make the checkpoint readable."""
        from orbax.checkpoint import v1 as ocp

        self._write()
        ocp.partial.finalize(self.folder)

    def _write(self) -> None:
        """Save in a thread of its own, and see it through when interrupted: Orbax would write on in the background."""
        with ThreadPoolExecutor(1) as pool:
            saving = pool.submit(self._save)
            try:
                saving.result()
            finally:
                wait([saving])
        self.wrote(self._held)
        self._pieces, self._held = {}, 0

    def _save(self) -> None:
        from orbax.checkpoint import v1 as ocp

        context = ocp.Context()
        context.array.saving.use_compression = False  # trained weights do not shrink
        with context:
            ocp.partial.save(self.folder, self._pieces)
