"""The command line: errors, exit codes, and start without JAX."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from r2t2_jax.cli.listings import ListMetrics
from r2t2_jax.cli.main import main
from r2t2_jax.cli.output import take_verbosity
from r2t2_jax.cli.parsing import log
from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.runtime import progress


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"r2t2: cannot write {tmp_path / 'file' / 'run'}")
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_traceback_is_printed_only_on_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "r2t2_jax.cli.main", "demo", "--out", str(tmp_path / "file")]
    outcomes = {
        debug: subprocess.run(command, env=os.environ | {"R2T2_DEBUG": debug}, capture_output=True, text=True)
        for debug in ("0", "1")
    }
    assert outcomes["0"].returncode == 2
    assert "Traceback" not in outcomes["0"].stderr
    assert outcomes["1"].returncode != 0
    assert "Traceback" in outcomes["1"].stderr


@pytest.mark.parametrize("arguments", [[], ["demo"], ["demo", "--out", "x", "--samples", "many"]])
def test_invalid_options_exit_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_help_does_not_import_jax() -> None:
    code = (
        "import sys; from r2t2_jax.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(str([name for name in ('jax', 'numpy', 'pyarrow') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "demo" in done.stdout


def test_quiet_prints_results_and_errors_only_and_verbose_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R2T2_DEBUG", "0")
    monkeypatch.setenv("JAX_LOG_COMPILES", "0")

    def note(self: object) -> None:
        log("a note")
        warnings.warn("a warning", R2T2Warning, stacklevel=1)
        if progress.shown:  # printed once, also if a library changes filters and the warning is issued again
            warnings.simplefilter("default", R2T2Warning)
            warnings.warn("a warning", R2T2Warning, stacklevel=1)
        with progress.phase("a phase"), progress.progress_bar(3, "a bar") as bar:
            assert bar.disable is not progress.shown
        print("a result")

    monkeypatch.setattr(ListMetrics, "run", note)
    assert main(["metrics", "-q"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a result\n", "")
    assert main(["metrics"]) == 0
    assert "a note" in (printed := capsys.readouterr().err) and printed.count("r2t2: a warning") == 1
    assert main(["nothing", "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("r2t2: unknown command 'nothing'")
    with pytest.raises(R2T2Error):
        main(["--verbose", "nothing"])


def test_words_of_a_question_are_no_switches() -> None:
    assert take_verbosity(["answer", "--question", "-q", "-v"]) == (["answer", "--question", "-q"], False, True)
