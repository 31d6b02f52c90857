"""The command line: errors, exit codes, and start without JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main


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
