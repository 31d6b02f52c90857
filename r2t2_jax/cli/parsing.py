"""From arguments to a command: words, options, `--config`, help and completion. Loads nothing heavy."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import json
import operator
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro

from r2t2_jax.errors import R2T2Error

FLAG = "--config"


def saved_arguments(name: str, command: type, options: Sequence[str]) -> list[str]:
    """The options with those of the file in front, so that what was typed wins.

    Args:
        name: of the command.
        command: its dataclass.
        options: as typed, perhaps with `--config FILE` among them.

    Raises:
        R2T2Error: the file cannot be read, was left by another command, or holds a setting that this one lacks.
    """
    path, rest = _take(options)
    if path is None:
        return list(options)
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read {FLAG} {path}: {error}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("settings"), dict):
        raise R2T2Error(f'{path} has no settings; give a run.json, or {{"settings": {{...}}}} of your own')
    if saved.get("command", name) != name:
        raise R2T2Error(f"{path} was left by `r2t2 {saved['command']}`, this is `r2t2 {name}`")
    known = {field.name for field in dataclasses.fields(command)}
    unknown = sorted(set(saved["settings"]) - known)
    if unknown:
        raise R2T2Error(f"{path} sets {', '.join(unknown)}; `r2t2 {name}` knows {', '.join(sorted(known))}")
    return [word for field, value in saved["settings"].items() for word in _as_typed(field, value)] + rest


def _take(options: Sequence[str]) -> tuple[str | None, list[str]]:
    rest, path = [], None
    words = iter(options)
    for word in words:
        if word == FLAG:
            path = next(words, None)
            if path is None:
                raise R2T2Error(f"{FLAG} needs a file: the run.json of an earlier run")
        elif word.startswith(f"{FLAG}="):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    return path, rest


def _as_typed(field: str, value: Any) -> list[str]:
    flag = field.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]


PROGRAM = "r2t2"
ABOUT = "Test-time re-routing of multimodal mixture-of-experts models."
BEGIN = "Begin with: r2t2 demo --out out/demo"
WIDTH = 80
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
FOOT = """
r2t2 COMMAND --help tells a command's options. With --config FILE an earlier
run's run.json gives their defaults; options on the command line win.
Shell completion: eval "$(r2t2 --tyro-print-completion bash)" (or zsh, tcsh).
Exit codes: 0 fine, 1 problems found, 2 bad usage or input, 130 interrupted.
R2T2_DEBUG=1 shows the traceback of an error."""


class Command(Protocol):
    """A dataclass whose fields are the options."""

    def run(self) -> int | None:
        """Do it. The exit code, where it is not 0: 1 for problems found."""
        ...


Commands = Mapping[str, type[Command]]


def parse(commands: Commands, arguments: Sequence[str]) -> Command:
    """The command that the arguments ask for.

    Args:
        commands: by the words a user types, such as `demo` or `bank build`.
        arguments: those of the process.

    Raises:
        SystemExit: with 0 after help, a version or a completion script was printed, with 2 after a message of why an
            option cannot be read.
        R2T2Error: there is no such command, or a file named by `--config` does not fit it.
    """
    if arguments and arguments[0] in COMPLETION:
        return tyro.cli(_tree(commands), prog=PROGRAM, args=arguments)
    if list(arguments) == ["--version"]:
        print(f"{PROGRAM} {version('r2t2-jax')}")
        sys.exit(0)
    name, options = _split(commands, arguments)
    if name not in commands:
        asked = bool(options) and options[0] in ("-h", "--help")
        if options and not asked:
            raise R2T2Error(_unknown(commands, name, options[0]))
        print(_overview(commands, name), file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    command = commands[name]
    with_config = _read_options(name, command, saved_arguments(name, command, options))
    given = {field.name: getattr(with_config, field.name) for field in dataclasses.fields(command)}  # type: ignore[arg-type]
    return command(**given)


def _read_options(name: str, command: type[Command], options: Sequence[str]) -> Command:
    """What tyro makes of the options. Its help does not wrap the usage and the description, so we do."""
    written = io.StringIO()
    try:
        with contextlib.redirect_stdout(written):
            return tyro.cli(_with_config(command), prog=f"{PROGRAM} {name}", args=options)
    finally:
        for line in _without_none(written.getvalue()).splitlines():
            further = "  " if line.startswith("usage:") else ""
            print(line.rstrip() if line.startswith(" ") else textwrap.fill(line, WIDTH, subsequent_indent=further))


def _without_none(text: str) -> str:
    """Help that does not say of an option one may leave out that it may be `None`; columns stay where they are."""
    text = re.sub(r"\s+\(default:\s+None\)", "", text)
    text = re.sub(r"\{None\}\|(\S+)(?= {2})", r"\1       ", text)
    return text.replace("{None}|", "")


def _split(commands: Commands, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The longest beginning of the arguments that is a command or a group of them, and the rest."""
    name, rest = "", list(arguments)
    while rest and name not in commands:
        longer = f"{name} {rest[0]}".strip()
        if not _within(commands, longer):
            break
        name, rest = longer, rest[1:]
    return name, rest


def _within(commands: Commands, group: str) -> list[str]:
    """The commands of a group; of all, for the empty one."""
    return [name for name in commands if not group or f"{name} ".startswith(f"{group} ")]


def _unknown(commands: Commands, group: str, word: str) -> str:
    known = [name.removeprefix(group).split()[0] for name in _within(commands, group)]
    known = list(dict.fromkeys(known))
    if word.startswith("-"):
        return f"a command must come before the option {word}; commands: {', '.join(known)}"
    close = difflib.get_close_matches(word, known, n=1)
    guess = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown command {f'{group} {word}'.strip()!r};{guess} commands: {', '.join(known)}"


def _overview(commands: Commands, group: str) -> str:
    names = _within(commands, group)
    column = max(map(len, names)) + 4
    lines = [f"usage: {PROGRAM} {group} COMMAND [OPTIONS]".replace("  ", " "), "", ABOUT, "", "Commands:"]
    for name in names:
        lead = _paragraphs(commands[name])[0]
        lines += textwrap.wrap(lead, WIDTH, initial_indent=f"  {name}".ljust(column), subsequent_indent=" " * column)
    example = _paragraphs(commands[names[0]])[-1] if group else BEGIN
    return "\n".join([*lines, "", example, FOOT])


def _paragraphs(command: type[Command]) -> list[str]:
    """Of its docstring, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(command) or "").split("\n\n")]


def _with_config(command: type[Command]) -> type[Command]:
    """The command with an option `--config`, which `saved_arguments` has read by then."""
    told = tyro.conf.arg(help="JSON whose settings are these options' defaults, such as a run.json.", metavar="FILE")
    field = ("config", Annotated[Path | None, told], dataclasses.field(default=None))
    name, about = command.__name__, {"__doc__": inspect.getdoc(command)}
    return dataclasses.make_dataclass(name, [field], bases=(command,), namespace=about, frozen=True)


def _tree(commands: Commands) -> Any:
    """All commands as one type, groups nested, for the completion script."""
    groups: dict[str, dict[str, type[Command]]] = {}
    for name, command in commands.items():
        head, _, rest = name.partition(" ")
        groups.setdefault(head, {})[rest] = command
    kinds = []
    for head, members in groups.items():
        kind = _with_config(members[""]) if "" in members else _group(head, members)
        kinds.append(Annotated[kind, tyro.conf.subcommand(name=head)])
    # A union of one type is no union, and tyro would ask for no subcommand.
    return functools.reduce(operator.or_, [*kinds, Annotated[None, tyro.conf.Suppress]])


def _group(head: str, commands: Commands) -> type:
    kind: Any = _tree(commands)
    return dataclasses.make_dataclass(head, [("command", Annotated[kind, tyro.conf.OmitSubcommandPrefixes])])


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written at the end.

    Raises:
        R2T2Error: its folder cannot be made or written, or it is a folder itself.
    """
    if path.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent)
        os.close(descriptor)
        Path(draft).unlink()
    except OSError as error:
        raise R2T2Error(f"cannot write {path}: {error.strerror}") from error
