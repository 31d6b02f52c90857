"""JAX's compilation cache on disk, a counter of compiled programs, and their release before there are too many."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

FOLDER = "JAX_COMPILATION_CACHE_DIR"
LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
COMPILED = "/jax/core/compile/backend_compile_duration"  # events of JAX; the first is sent for cached programs too
CACHED = "/jax/compilation_cache/cache_hits"
MIN_REPORTED_SECONDS = 0.1  # programs of one operation take less
MAPPINGS, MAPPING_LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
MAPPED_SHARE = 0.5  # of the permitted mappings, above which programs are released
SECONDS_BETWEEN_CHECKS = 10.0
LOGGER = logging.getLogger(__name__)


def enable_compilation_cache(least_seconds: float = 0.3) -> None:
    """Enable JAX's compilation cache; JAX's own environment variables take precedence.

    The folder is `$JAX_COMPILATION_CACHE_DIR`, or `r2t2/compiled` in `$XDG_CACHE_HOME` or `~/.cache`.

    Args:
        least_seconds: programs that compile faster are not kept. Programs of the pocket model take few seconds; a
            command that answers one question keeps even those of one operation.
    """
    import jax

    if FOLDER not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "compiled"))
    if LEAST_SECONDS not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)


def user_cache() -> Path:
    """The folder of this package in the user's cache: `r2t2` in `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "r2t2"


class CompileCounter:
    """Counts the programs that this process compiles while the counter is open.

    `programs` counts those that took at least `MIN_REPORTED_SECONDS`, `cached` those loaded from disk; `seconds` is the
    time of all.
    """

    def __init__(self) -> None:
        self.programs, self.cached, self.seconds = 0, 0, 0.0
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

    def _cached(self, event: str, **metadata: Any) -> None:
        if event == CACHED:
            self._thread.cached = True  # COMPILED comes next, in the same thread

    def _compiled(self, event: str, duration_secs: float, **metadata: Any) -> None:
        if event != COMPILED:
            return
        from_disk, self._thread.cached = getattr(self._thread, "cached", False), False
        with self._lock:
            self.cached += from_disk
            self.programs += not from_disk and duration_secs >= MIN_REPORTED_SECONDS
            self.seconds += duration_secs

    def __str__(self) -> str:
        return f"compiled: {self.programs:,} new, {self.cached:,} cached ({self.seconds:.0f} s)"


def mapped_share() -> float:
    """The memory mappings of this process as a share of those that Linux permits; 0 on other systems."""
    try:
        limit = int(MAPPING_LIMIT.read_text(encoding="ascii"))
        with MAPPINGS.open("rb") as lines:
            return sum(1 for _ in lines) / limit
    except (OSError, ValueError):
        return 0.0


class ProgramRelease:
    """Releases the compiled programs of this process before they take all memory mappings that Linux permits.

    On a CPU a program takes 16 mappings or more, which are freed with it. Without any left (65,530 by default), XLA
    ends the process with a segmentation fault. A released program is compiled again, or loaded from the compilation
    cache, when it is needed; one that runs in another thread stays until it has ended.
    """

    def __init__(self) -> None:
        self._share, self._next = MAPPED_SHARE, 0.0
        self._lock = threading.Lock()

    def check(self) -> bool:
        """Release all programs if this process has too many mappings, and return whether it had; takes a few
        microseconds within `SECONDS_BETWEEN_CHECKS` of the last check.
        """
        with self._lock:
            if time.monotonic() < self._next:
                return False
            self._next = time.monotonic() + SECONDS_BETWEEN_CHECKS
            share = mapped_share()
            if share <= self._share:
                return False
            import jax

            jax.clear_caches()
            LOGGER.info("compiled programs are released: the process had %.0f %% of the memory mappings", 100 * share)
            self._share = max(MAPPED_SHARE, (1 + mapped_share()) / 2)  # others may hold the rest
            return True


PROGRAMS = ProgramRelease()
