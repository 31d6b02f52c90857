"""Compiled programs: kept on disk from one process to the next, and counted."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
COMPILED = "/jax/core/compile/backend_compile_duration"  # events of JAX; the first comes for cached programs too
CACHED = "/jax/compilation_cache/cache_hits"
WORTH_TELLING = 0.1  # seconds; programs of one operation take less


def enable_compilation_cache() -> None:
    """Let JAX keep what it compiles, where its own environment variables do not say otherwise.

    In `$JAX_COMPILATION_CACHE_DIR`, or `r2t2/compiled` below `$XDG_CACHE_HOME` or `~/.cache`.
    """
    import jax

    if FOLDER not in os.environ:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "r2t2" / "compiled"))
    if LEAST_SECONDS not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)  # the pocket model's are short


class CompileCounter:
    """What this process compiled while the counter was open.

    `programs` are those that took a while, `seconds` what all of them took, `found` those that were on disk.
    """

    def __init__(self) -> None:
        self.programs, self.found, self.seconds = 0, 0, 0.0
        self._lock = threading.Lock()
        self._thread = threading.local()

    def __enter__(self) -> CompileCounter:
        import jax

        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        jax.monitoring.register_event_listener(self._cached)
        return self

    def __exit__(self, *error: object) -> None:
        import jax

        jax.monitoring.unregister_event_duration_listener(self._compiled)
        jax.monitoring.unregister_event_listener(self._cached)

    def _cached(self, event: str, **told: Any) -> None:
        if event == CACHED:
            self._thread.cached = True  # COMPILED comes next, in the same thread

    def _compiled(self, event: str, duration_secs: float, **told: Any) -> None:
        if event != COMPILED:
            return
        cached, self._thread.cached = getattr(self._thread, "cached", False), False
        with self._lock:
            self.found += cached
            self.programs += not cached and duration_secs >= WORTH_TELLING
            self.seconds += duration_secs

    def __str__(self) -> str:
        return f"{self.programs:,} programs compiled and {self.found:,} found on disk, in {self.seconds:.1f} s"
