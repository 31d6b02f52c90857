"""Windows and macOS, as far as Linux can show: modules, names of files, bytes of texts, and files that are open.

Nothing here replaces a run on these systems: it finds what is known to fail there.
"""

import ast
import asyncio
import errno
import io
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import lock_descriptor

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.cli.main import PrintableStream
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import distinct_names
from r2t2_jax.reporting.page import anchor
from r2t2_jax.runs import atomic_io, folder
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.reading import open_run
from r2t2_jax.runs.run import Run
from tests.docs.test_commands import ALL
from tests.toy import toy_bank

ROOT = Path(__file__).parents[2]
FOLDERS = ("r2t2_jax", "ports", "docs", "examples", "benchmarks", "tests", "deploy")
SOURCES = [*sorted((ROOT / "r2t2_jax").rglob("*.py")), *sorted((ROOT / "ports").rglob("*.py"))]
POSIX_MODULES = "crypt curses fcntl grp nis posix pty pwd readline resource spwd syslog termios tty"
POSIX_NAMES = {
    "os": """O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC chown chroot fchdir fchmod fchown fork forkpty getegid geteuid
    getgid getloadavg getpgid getpgrp getpriority getsid getuid initgroups killpg lchown lockf mkfifo mknod nice openpty
    posix_fadvise posix_spawn pread pwrite register_at_fork sched_getaffinity sched_setaffinity sendfile setgid setpgid
    setsid setuid statvfs sync sysconf uname wait wait4 waitid waitpid writev""",
    "signal": """SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 alarm pause
    pthread_kill pthread_sigmask setitimer sigpending sigwait""",
    "time": "tzset clock_settime",
    "socket": "AF_UNIX CMSG_LEN sethostname",
}
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]')
TEXT_MODE = re.compile(r"[rwaxt+]+")


def is_valid_on_windows(path: str) -> bool:
    """Whether every part of a relative path with `/` can be the name of a file on Windows."""
    return all(
        not FORBIDDEN.search(part) and part.partition(".")[0].lower() not in RESERVED and not part.endswith((" ", "."))
        for part in path.split("/")
        if part not in (".", "..")
    )


@cache
def nodes() -> dict[str, list[ast.AST]]:
    """The nodes of every module by its path; parsing takes a second."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
    return {path.relative_to(ROOT).as_posix(): list(ast.walk(tree)) for path, tree in trees.items()}


def calls(*names: str) -> Iterator[tuple[str, ast.Call, str]]:
    """The calls of functions and methods with these names: where each is, the call, and the name."""
    for path, tree in nodes().items():
        for node in tree:
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if name in names:
                    yield f"{path}:{node.lineno}", node, name


def is_guard(node: ast.AST) -> bool:
    """Whether a condition on the system, or a `try` that expects the name to be absent."""
    if isinstance(node, ast.If | ast.IfExp):
        return any(name in ast.unparse(node.test) for name in ("WINDOWS", "os.name", "sys.platform", "hasattr(os,"))
    handlers = [ast.unparse(each.type) for each in node.handlers if each.type] if isinstance(node, ast.Try) else []
    return any(name in text for text in handlers for name in ("NotImplementedError", "AttributeError"))


def test_no_module_needs_what_windows_lacks() -> None:
    problems = []
    for path, tree in nodes().items():
        imports = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module}
        problems += [f"{path}: {name}" for name in modules & set(POSIX_MODULES.split())]
        absent = [node for node in tree if isinstance(node, ast.Attribute) and is_absent(node)]
        below = {each for node in tree if absent and is_guard(node) for each in ast.walk(node)}
        problems += [f"{path}:{node.lineno} {ast.unparse(node)}" for node in absent if node not in below]
    assert problems == []


def is_absent(node: ast.Attribute) -> bool:
    """Whether Windows lacks an attribute of a module, or a method of its event loop."""
    return node.attr in POSIX_NAMES.get(getattr(node.value, "id", ""), "").split() or node.attr == "add_signal_handler"


def test_text_files_have_the_same_bytes_on_all_systems() -> None:
    problems = []
    for where, call, name in calls("open", "read_text", "write_text"):
        words = {keyword.arg for keyword in call.keywords}
        is_function = isinstance(call.func, ast.Name)
        if name == "open":
            mode = getattr(call.args[is_function], "value", "") if len(call.args) > is_function else "r" * is_function
            if not TEXT_MODE.fullmatch(str(mode)):  # binary, or a method that opens something else
                continue
        elif is_function:  # the reader of typed_files
            continue
        writes = name == "write_text" or (name == "open" and set(str(mode)) & set("wax"))
        if "encoding" not in words or (writes and "newline" not in words and "devnull" not in ast.unparse(call)):
            problems.append(f"{where} {ast.unparse(call)}")
    assert problems == []


def test_paths_in_files_have_slashes() -> None:
    nested = [(where, ast.unparse(call.args[0])) for where, call, _ in calls("str") if call.args]
    assert [where for where, inner in nested if re.search(r"\.relative_to\([^()]*\)$", inner)] == []


def test_the_repository_can_be_checked_out_on_windows_and_macos() -> None:
    names = [path.relative_to(ROOT).as_posix() for name in FOLDERS for path in (ROOT / name).rglob("*")]
    names = [name for name in names if "__pycache__" not in name]
    assert [name for name in names if not is_valid_on_windows(name)] == []
    assert len({name.casefold() for name in names}) == len(names) and max(map(len, names)) < 120


def test_no_documented_command_names_a_file_that_windows_cannot_have() -> None:
    for typed in ALL:
        values = [value.rpartition("=")[2] for word in typed.options for value in word.split(",")]
        paths = [value for value in values if "://" not in value and not re.search(r"\s|[<>{}\[\]]", value)]
        paths = [path.rpartition(":")[2] for path in paths]  # port:path
        assert [path for path in paths if not is_valid_on_windows(path)] == [], typed


def test_names_of_models_and_benchmarks_become_names_of_files() -> None:
    names = ["pocket:narrow", "pocket:Narrow", "models/moai,aux=x on a|b?", "C:\\models\\x", "µ <1>", "pocket-narrow"]
    stems = distinct_names(names, anchor, "-")
    assert all(is_valid_on_windows(f"{stem}-accuracy.csv") for stem in stems.values())
    assert len({stem.casefold() for stem in stems.values()}) == len(names)


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "ascii"])
def test_output_is_readable_in_the_encodings_of_windows(encoding: str) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    PrintableStream(written).write("wrong → right ─── ± 3 │ 50 % ≥ 2 █▌ −1 …")
    written.flush()
    text = written.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "\\u" not in text and "wrong -> right" in text.replace("→", "->") and "50 %" in text


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process holds open can be neither renamed, nor replaced, nor removed, as on Windows."""

    def files_in_use() -> set[str]:
        described = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").split("\n")
        return {path for path in [*described, *(line[73:] for line in mapped)] if path.startswith(str(tmp_path))}

    def refusing(function: Callable[..., Any], count: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            for path in map(os.path.abspath, arguments[:count]):
                if any(used == path or used.startswith(f"{path}/") for used in files_in_use()):
                    raise PermissionError(errno.EACCES, "The process cannot access the file", path)
            return function(*arguments, **options)

        return call

    if not Path("/proc/self/maps").exists():
        pytest.skip("/proc lists the files in use")
    monkeypatch.setattr(atomic_io, "WINDOWS", True)
    monkeypatch.setattr(folder, "WINDOWS", True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    for name, count in (("rename", 2), ("replace", 2), ("unlink", 1), ("remove", 1), ("rmdir", 1)):
        monkeypatch.setattr(os, name, refusing(getattr(os, name), count))


@pytest.mark.usefixtures("windows")
def test_a_run_renames_and_removes_no_open_file(tmp_path: Path) -> None:
    plan = Plan([Part("a", samples=5, batch=2)])

    def compute(stop_after: int) -> None:
        with Run.open(tmp_path / "run", "work", {"k": 5}, plan) as run:
            for done, batch in enumerate(run.missing()):
                if done == stop_after:
                    raise R2T2Error("stopped")
                run.append(batch, [{"part": "a", "sample": sample} for sample in range(batch.start, batch.stop)])
            run.export()
            run.finish({"n": 5})

    with pytest.raises(R2T2Error, match="stopped"):
        compute(stop_after=1)
    compute(stop_after=9)
    compute(stop_after=9)  # a complete run
    saved = open_run(tmp_path / "run")
    assert saved.rows["sample"].to_pylist() == [0, 1, 2, 3, 4] and saved.complete
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert all(map(is_valid_on_windows, names)) and not [name for name in names if "lock" in name or "draft" in name]


@pytest.mark.usefixtures("windows")
def test_a_bank_is_replaced_where_it_is_not_open_and_else_refused_in_one_line(tmp_path: Path) -> None:
    bank = toy_bank()
    bank.save(tmp_path / "bank")
    bank.save(tmp_path / "bank")
    opened = ReferenceBank.open(tmp_path / "bank")
    with pytest.raises(R2T2Error, match=r"cannot write .*bank"):
        bank.save(tmp_path / "bank")
    assert len(opened) == len(bank) and len(ReferenceBank.open(tmp_path / "bank")) == len(bank)
    names = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert all(map(is_valid_on_windows, names)) and not [name for name in names if "draft" in name]


def test_files_and_folders_are_written_where_only_a_file_next_to_them_can_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_io, "WINDOWS", True)

    def write(content: str) -> None:
        atomic_io.atomic_write(tmp_path / "file", lambda draft: draft.write_text(content))
        atomic_io.atomic_folder(tmp_path / "folder", lambda draft: (draft / "part").write_text(content))

    write("first")
    abandoned = tmp_path / f"{atomic_io.OWN}00000000-file"
    abandoned.write_text("half")
    (tmp_path / f"{atomic_io.OWN}00000001-file{atomic_io.LOCK_FILE}").touch()
    busy = tmp_path / f"{atomic_io.OWN}00000002-file"
    busy.write_text("half")
    with open(f"{busy}{atomic_io.LOCK_FILE}", "w") as lock:
        assert lock_descriptor(lock.fileno(), blocking=False)
        write("second")
        assert busy.exists() and not abandoned.exists()
    write("third")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "part").read_text() == "third"


def test_the_server_stops_on_signals_where_the_event_loop_takes_no_handlers() -> None:
    server = pytest.importorskip("r2t2_jax.serve.server")

    class Loop(asyncio.SelectorEventLoop):
        """As the loop of Windows."""

        def add_signal_handler(self, *_: Any) -> None:
            raise NotImplementedError

    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    loop, stopped = Loop(), []

    async def serve() -> None:
        server._on_signals(loop, lambda: stopped.append("stopped"))
        signal.raise_signal(signal.SIGTERM)
        while not stopped:
            await asyncio.sleep(0)

    try:
        loop.run_until_complete(serve())
    finally:
        loop.close()
        for number, handler in earlier.items():
            signal.signal(number, handler)
    assert stopped == ["stopped"]
