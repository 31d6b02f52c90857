"""Progress: lines where the output is no terminal, a bar where it is one."""

import io
import threading

import pytest

from r2t2_jax.runtime import progress
from r2t2_jax.runtime.progress import ProgressBar, phase, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Lines(io.StringIO):
    """A file that sets an event with the n-th line."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.reached, self._n = threading.Event(), n

    def write(self, text: str) -> int:
        size = super().write(text)
        if self.getvalue().count("\n") >= self._n:
            self.reached.set()
        return size


def test_a_file_gets_lines_and_no_carriage_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    file = Lines(2)
    with ProgressBar(total=100, desc="encode", unit="sample", file=file) as bar:
        bar.update(40)
        assert file.reached.wait(60)
        bar.refresh()
        ProgressBar.write("a message", file=file)
    text = file.getvalue()
    assert "\r" not in text and "a message\n" in text
    assert "encode:  40%|" in text


def test_short_work_writes_nothing_to_a_file() -> None:
    file = io.StringIO()
    for _ in ProgressBar(range(3), file=file):
        pass
    assert file.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    file = Terminal()
    with ProgressBar(total=4, desc="encode", file=file, leave=False) as bar:
        bar.update(4)
    assert "\rencode:   0%|" in file.getvalue() and "\n" not in file.getvalue()


def test_a_phase_without_a_count_writes_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Lines(2)
    monkeypatch.setattr("sys.stderr", file)
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    with phase("load the model"):
        assert file.reached.wait(60)
    assert file.getvalue().startswith("load the model ...")


def test_bars_count_the_samples_of_earlier_processes() -> None:
    with progress_bar(10, "eval", initial=4) as bar:
        assert (bar.n, bar.total) == (4, 10) and bar.desc.startswith("eval")


def test_a_bar_says_that_it_compiles_until_the_first_samples_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    file = Lines(1)
    with ProgressBar(total=4, desc="eval", compiles=True, file=file) as bar:
        assert file.reached.wait(60)
        bar.update(2)
        bar.write_line()
    first, last = file.getvalue().splitlines()
    assert first.startswith("eval, compiling:   0%|") and last.startswith("eval:  50%|")


def test_the_clock_of_a_bar_runs_while_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "TICK", 0.01)

    class Screen(Terminal):
        drawn = threading.Semaphore(0)

        def write(self, text: str) -> int:
            if "compiling" in text:
                self.drawn.release()
            return super().write(text)

    file = Screen()
    with ProgressBar(total=4, desc="eval", compiles=True, file=file, leave=False, mininterval=1000) as bar:
        assert all(file.drawn.acquire(timeout=60) for _ in range(3))
        bar.update(4)
        bar.refresh()
    assert "\reval: 100%|" in file.getvalue()
