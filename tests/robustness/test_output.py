"""Standard output and errors that print anywhere, SIGTERM, complete runs that were damaged, and full disks."""

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from r2t2_jax.cli import main as cli
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.compare_runs import read_entries
from r2t2_jax.runs.batch_files import read_batch
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run
from tests.robustness.printing import Print

PRINT = [sys.executable, "-m", "tests.robustness.printing"]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "wrong→right ±1 é \\x1b[2J\\x1b]0;title\\x07 \\u202egpj.exe"),
        ("latin-1", "wrong->right ±1 é \\x1b[2J\\x1b]0;title\\x07 \\u202egpj.exe"),
        ("ascii", "wrong->right +-1 \\xe9 \\x1b[2J\\x1b]0;title\\x07 \\u202egpj.exe"),
    ],
)
def test_output_is_printed_in_every_encoding_and_without_escapes(encoding: str, expected: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(PRINT, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode(encoding).strip() == expected


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_closed_streams_do_not_spoil_the_exit_code(closed: str) -> None:
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *PRINT], stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_errors_are_inert_and_sigterm_has_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", {"print": Print})
    monkeypatch.setattr(Print, "action", "fail")
    assert cli.main(["print"]) == 2
    assert capsys.readouterr().err == "r2t2: no model \\x1b[31mred\\x9b2J\n"
    earlier = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Print, "action", "terminate")
    assert cli.main(["print"]) == 143
    assert capsys.readouterr().err == "r2t2: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is earlier


def test_colors_and_progress_bars_keep_their_escapes_on_a_terminal() -> None:
    text = "\x1b[1;31mred\x1b[0m \x1b[?25l\x1b[2K\x1b[1A \x1b[2J\x1b]0;x\x07"
    assert cli.inert(text, terminal=True) == "\x1b[1;31mred\x1b[0m \x1b[?25l\x1b[2K\x1b[1A \\x1b[2J\\x1b]0;x\\x07"
    assert "\x1b" not in cli.inert(text, terminal=False)


ROW = {"accuracy": 1.0, "ci95": [0.5, 1.0], "wrong_to_right": 0, "right_to_wrong": 0, "evaluations_per_sample": 1.0}


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """A complete run of two batches."""
    out = tmp_path / "run"
    with Run.open(out, "eval", {"model": "m"}, Plan([Part("a", samples=4, batch=2)])) as run:
        for batch in run.missing():
            row = {"model": "m", "strategy": "base", "right": True}
            run.append(batch, [row | {"id": str(i)} for i in range(batch.start, batch.stop)])
        run.export()
        run.finish({"schema": 2, "models": {"m": {"n": 4, "strategies": {"base": ROW}}}})
    return out


def test_a_complete_run_with_a_missing_batch_is_refused_and_can_be_completed(complete: Path) -> None:
    (complete / "batches" / "00001.parquet").unlink()
    for read in (lambda: open_run(complete).summary, lambda: open_run(complete).rows):
        with pytest.raises(R2T2Error, match="is damaged: 1 of 2 batches are missing, the first is 1; repeat"):
            read()
    with Run.open(complete, "eval", {"model": "m"}, Plan([Part("a", samples=4, batch=2)])) as run:
        assert not run.complete
        assert [batch.number for batch in run.todo(["a"])] == [1]


@pytest.mark.parametrize("name", ["batches/00001.parquet", "rows.parquet"])
def test_a_truncated_file_of_a_complete_run_is_refused(name: str, complete: Path) -> None:
    path = complete / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(R2T2Error, match=path.name):
        read_entries([open_run(complete)])


def test_a_batch_with_any_flipped_bit_is_read_whole_or_refused(complete: Path) -> None:
    path = complete / "batches" / "00001.parquet"
    raw, table = path.read_bytes(), read_batch(path)
    for place in range(0, 8 * len(raw), 37):
        damaged = bytearray(raw)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read = read_batch(path)
        except R2T2Error:
            continue
        assert read.equals(table), place


def test_an_exported_table_of_fewer_rows_is_refused(complete: Path) -> None:
    shutil.copy(complete / "batches" / "00000.parquet", complete / "rows.parquet")
    with pytest.raises(R2T2Error, match=r"rows.parquet does not have the 4 rows of the run; delete it"):
        read_entries([open_run(complete)])


def test_a_summary_of_another_model_is_refused(complete: Path) -> None:
    summary = complete / "summary.json"
    summary.write_text(summary.read_text().replace('"m": {', '"other": {'))
    with pytest.raises(R2T2Error, match=r"its summary and its rows name other models \(m, other\)"):
        read_entries([open_run(complete)])


FILL = """
import contextlib, os, resource, sys
from pathlib import Path
from tests.robustness.writers import WRITERS, TARGET
from r2t2_jax.errors import R2T2Error
names, place, limit = sys.argv[1].split(","), Path(sys.argv[2]), sys.argv[3]
refused = dict.fromkeys(names, 0)
for name, number in ((name, number) for name in names for number in range(100)):
    folder = place / f"{name}{number}"
    folder.mkdir()
    if limit == "file":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 * number, resource.RLIM_INFINITY))
    else:
        os.system(f"mount -t tmpfs -o size={4 * (number + 1)}k tmpfs {folder}")
    try:
        WRITERS[name](folder, 1)
    except (R2T2Error, OSError) as error:
        refused[name] += 1
        assert TARGET in (str(error) if isinstance(error, R2T2Error) else str(error.filename)), error
        assert "\\n" not in str(error), error
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert not list(folder.iterdir()), list(folder.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(*refused.values())
"""


def fill(command: list[str], names: str, place: Path, limit: str) -> list[int]:
    """Write at 100 sizes of a disk or of the largest file; returns how often each writer was refused."""
    command = [*command, sys.executable, "-c", FILL, names, str(place), limit]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("names", ["bank", "atlas", "report", "export", "file", "map,steering,exported"])
def test_files_that_cannot_grow_leave_nothing_and_name_the_target(names: str, tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    assert all(1 <= count < 100 for count in fill([], names, tmp_path, "file"))


def can_mount() -> bool:
    command = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs user namespaces to mount a small file system")
@pytest.mark.parametrize("name", ["bank", "atlas"])
def test_a_full_disk_of_any_size_leaves_nothing_and_names_the_target(name: str, tmp_path: Path) -> None:
    (count,) = fill(["unshare", "-rm"], name, tmp_path, "disk")
    assert 1 <= count < 100


def test_questions_that_the_model_truncates_are_counted() -> None:
    from r2t2_jax.evaluation.encode import note_of_long_questions
    from r2t2_jax.plugins import load
    from tests.toy_port import make_samples

    samples = make_samples(3, seed=0, hinted=0.5)
    assert note_of_long_questions(load("tests.toy_port:toy"), samples) == ""  # its processor cannot tell
    port = load("pocket:narrow")
    long = dataclasses.replace(samples[1], id="long", question="what color is the circle ? " * 500)
    short = dataclasses.replace(samples[0], question="what color is the circle ?")
    note = note_of_long_questions(port, [short, long])
    assert note == "1 of 2 questions are too long for pocket:narrow and are cut, first 'long'"
