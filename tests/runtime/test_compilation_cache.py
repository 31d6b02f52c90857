"""Compiled programs are released before they take all memory mappings of the process."""

import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.runtime import batching, compilation_cache
from r2t2_jax.runtime.compilation_cache import MAPPED_SHARE, ProgramRelease, mapped_share

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the system does not limit mappings")


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """Sets the number of mappings that the system seems to permit."""

    def set_limit(number):
        (tmp_path / "limit").write_text(f"{number}\n", encoding="ascii")
        monkeypatch.setattr(compilation_cache, "MAPPING_LIMIT", tmp_path / "limit")

    return set_limit


@pytest.fixture
def traced():
    """A jitted function, and the shapes for which it was traced."""
    shapes = []

    @jax.jit
    def square(x):
        shapes.append(x.shape)
        return x * x

    return square, shapes


@LINUX
def test_the_share_is_that_of_the_mappings_of_this_process(limit):
    assert 0 < mapped_share() < 1
    mappings = len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    limit(2 * mappings)
    assert mapped_share() == pytest.approx(0.5, abs=0.1)


def test_a_system_without_mappings_has_no_share(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(compilation_cache, "MAPPINGS", tmp_path / "missing")
    assert mapped_share() == 0
    limit("unlimited")
    assert mapped_share() == 0
    assert not ProgramRelease().check()


@LINUX
def test_programs_are_released_above_the_share_and_compiled_again(limit, traced):
    square, shapes = traced
    square(jnp.ones(3))
    limit(10**9)
    assert not ProgramRelease().check()
    square(jnp.ones(3))
    assert shapes == [(3,)]
    limit(10)
    assert ProgramRelease().check()
    assert square(jnp.full(3, 2.0)).tolist() == [4.0] * 3
    assert shapes == [(3,), (3,)]


@LINUX
def test_programs_are_freed():
    before = mapped_share()
    for n in range(1, 21):
        jax.jit(lambda x, n=n: jnp.tanh(x * n).sum())(jnp.ones((n, n)))
    compiled = mapped_share()
    jax.clear_caches()
    assert mapped_share() < before + (compiled - before) / 2


def test_checks_are_rare_and_what_others_hold_is_released_once(monkeypatch):
    seconds, cleared = [0.0], []
    monkeypatch.setattr(compilation_cache.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(compilation_cache, "mapped_share", lambda: 0.8)
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(seconds[0]))
    release = ProgramRelease()
    for seconds[0] in (20.0, 21.0, 29.0, 31.0, 60.0):
        release.check()
    assert cleared == [20.0]
    monkeypatch.setattr(compilation_cache, "mapped_share", lambda: 0.95)
    seconds[0] = 90.0
    assert MAPPED_SHARE < 0.9
    assert release.check()


def test_every_batch_checks(monkeypatch):
    checks = []
    monkeypatch.setattr(batching.PROGRAMS, "check", lambda: checks.append(True))
    assert batching.run_batch(lambda rows: rows + 1, 2, 5, 4).tolist() == [3, 4, 5]
    assert checks == [True]


def test_programs_may_be_released_while_others_run(traced):
    square, shapes = traced
    results = []

    def run():
        for n in range(1, 9):
            results.append(bool((np.asarray(square(jnp.full(n, 3.0))) == 9).all()))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        jax.clear_caches()
    assert results == [True] * 16
    assert len(shapes) >= 8
