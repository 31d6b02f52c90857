"""Parses the arguments: commands, options, `--config`, help and completion. Imports no large library."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import math
import operator
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, get_args, get_origin, get_type_hints

import tyro

from r2t2_jax.cli.aliases import ELSEWHERE, is_list, other_names, parser_words
from r2t2_jax.cli.options import RANGES, UsageError, check_words, one_line
from r2t2_jax.cli.output import version_lines
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runs.atomic_io import check_can_create

if TYPE_CHECKING:
    from r2t2_jax.contract import Port
    from r2t2_jax.runs.cluster import WorkerConfig
    from r2t2_jax.runs.plan import Plan

CONFIG_FLAG = "--config"
_EXAMPLE: Any = tyro.conf.Positional[int]
POSITIONAL = _EXAMPLE.__metadata__[0]  # the mark of a field that is given by its place
CLUSTER = "cluster"  # field of `ClusterOptions`
UNRECORDED = ("allow_leakage", "answer_steps")  # recorded only if they are set, so that earlier runs continue
PROGRAM = "r2t2"
ABOUT = "Test-time re-routing of multimodal mixture-of-experts models."
BEGIN = "Begin with: r2t2 demo --out out/demo"
WIDTH = 80
EXAMPLE = "Example: "
METAVARS = {
    "answer_steps": "NAME ...",
    "embedder": "NAME",
    "images": "DIR",
    "max_new_tokens": "N",
    "mesh": "AXES",
    "models": "NAME",
    "question": "TEXT",
    "routing": "JSON",
    "run_folder": "RUN",
    "run_folders": "RUN",
    "strategy": "NAME",
}
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
FOOTER = """
r2t2 COMMAND --help lists a command's options. With --config FILE, the run.json
of an earlier run gives their defaults; options on the command line override it.
-q prints results and errors only, -v also what is compiled, warnings of
libraries and the traceback of an error. NO_COLOR=1 prints without colors.
Shell completion: eval "$(r2t2 completion bash)" (or zsh, tcsh).
Exit codes: 0 success, 1 problems found, 2 bad usage or input, 130 interrupted,
143 terminated.
R2T2_DEBUG=1 shows the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class ClusterOptions:
    """Compute on the workers of a Ray cluster. No result depends on these options."""

    ray: Annotated[str, tyro.conf.arg(metavar="ADDRESS")] = ""
    """Compute on Ray workers: local for a cluster on this machine, auto for this machine's cluster, or an address."""
    workers: Annotated[str, tyro.conf.arg(metavar="N")] = "auto"
    """Number of workers; auto for as many as the cluster has room for, also while the run goes on."""
    worker_resources: Annotated[str, tyro.conf.arg(metavar="JSON")] = ""
    """Resources of each worker as JSON: '{"GPU": 1}', '{"TPU": 4}', or custom ones. Default: one CPU."""
    model_uri: Annotated[str, tyro.conf.arg(metavar="URI")] = ""
    """Where workers fetch the model directory if they do not see its path: gs://, s3:// or file://."""

    def config(self) -> WorkerConfig | None:
        """The configuration of the workers; `None` without --ray. This process then computes on the CPU.

        Raises:
            R2T2Error: as `WorkerConfig.parse`.
        """
        from r2t2_jax.runs.cluster import WorkerConfig

        config = WorkerConfig.parse(self.ray, self.workers, self.worker_resources, self.model_uri)
        if config is not None:
            import jax

            jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers, which hold their memory
        return config


# A field of a command: the options above, under their own names and a heading in the help.
Cluster = Annotated[ClusterOptions, tyro.conf.arg(name=""), tyro.conf.OmitArgPrefixes]
NO_CLUSTER = ClusterOptions()
Sets = Annotated[tuple[str, ...], tyro.conf.arg(metavar="SET ...")]  # names or files; see `aliases`


def command_settings(command: Command, excluded: Sequence[str] = ()) -> dict[str, Any]:
    """The options on which results depend, as `run.json` holds them: without unset and excluded ones."""
    return {
        field.name: value
        for field in dataclasses.fields(command)  # type: ignore[arg-type]
        if (value := getattr(command, field.name)) is not None
        and not (field.name in UNRECORDED and not value)
        and field.name not in ("out", "max_hours", "dry_run", "json", CLUSTER, *excluded)
    }


def recorded_sets(names: Sequence[str]) -> str | list[str]:
    """Question sets as files of settings hold them: a single one as text."""
    return names[0] if len(names) == 1 else list(names)


def saved_arguments(name: str, command: type, options: Sequence[str]) -> list[str]:
    """The options with those of the `--config` file in front, so that options on the command line override it.

    Args:
        name: of the command.
        command: its dataclass.
        options: as typed, possibly with `--config FILE`.

    Raises:
        R2T2Error: the file cannot be read, belongs to another command, or has a setting that this command lacks.
    """
    path, rest = _take(options)
    if path is None:
        return list(options)
    from r2t2_jax.runs.fingerprint import current_settings
    from r2t2_jax.runtime.typed_json import open_json  # imports numpy, which help does not need

    try:
        saved = open_json(Path(path)).content
    except R2T2Error as error:
        raise R2T2Error(f"{CONFIG_FLAG}: {error}") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("settings"), dict):
        raise R2T2Error(f'{path} has no settings; give a run.json, or a file with {{"settings": {{...}}}}')
    if saved.get("command", name) != name:
        raise R2T2Error(f"{path} belongs to `r2t2 {saved['command']}`, this is `r2t2 {name}`")
    settings, known = current_settings(name, saved["settings"]), _option_names(command)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise R2T2Error(
            f"{path} sets {', '.join(unknown)}; the options of `r2t2 {name}` are {', '.join(sorted(known))}"
        )
    positional = _positional_fields(command)
    values = [value for name in positional if (value := settings.pop(name, None)) is not None]
    first = [] if _has_positional(command, rest) else [str(value) for value in values]
    return first + [word for field, value in settings.items() for word in _to_words(field, value)] + rest


def _positional_fields(command: type[Command]) -> list[str]:
    """The fields that are given by their place, in this order."""
    kinds = get_type_hints(command, include_extras=True)
    return [name for name, kind in kinds.items() if POSITIONAL in getattr(kind, "__metadata__", ())]


def _has_positional(command: type[Command], words: Sequence[str]) -> bool:
    """Whether one of the words is no option, and no value of one."""
    kinds = get_type_hints(command) | get_type_hints(ClusterOptions)
    values = 0.0  # that the option before may still take
    for word in words:
        if word.startswith("--"):
            kind = kinds.get(word[2:].replace("-", "_"), bool)
            values = 0 if "=" in word or kind is bool else math.inf if is_list(kind) else 1
        elif values == 0:
            return True
        else:
            values -= 1
    return False


def _option_names(command: type[Command]) -> set[str]:
    names = {field.name for field in dataclasses.fields(command)}  # type: ignore[arg-type]
    cluster = {field.name for field in dataclasses.fields(ClusterOptions)}
    return names - {CLUSTER} | cluster if CLUSTER in names else names


def _take(options: Sequence[str]) -> tuple[str | None, list[str]]:
    rest, path = [], None
    words = iter(options)
    for word in words:
        if word == CONFIG_FLAG:
            path = next(words, None)
            if path is None:
                raise R2T2Error(f"{CONFIG_FLAG} needs a file: the run.json of an earlier run")
        elif word.startswith(f"{CONFIG_FLAG}="):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    return path, rest


def _to_words(field: str, value: Any) -> list[str]:
    flag = field.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{flag}", *map(str, values)]


class Command(Protocol):
    """A command: a dataclass whose fields are the options."""

    def run(self) -> int | None:
        """Run the command. Returns 1 if it found problems, else `None` or 0."""
        ...


Commands = Mapping[str, type[Command]]


def parse(commands: Commands, arguments: Sequence[str]) -> Command:
    """Parse the arguments into a command.

    Args:
        commands: by the words that a user types, such as `demo` or `bank build`.
        arguments: of the process.

    Raises:
        SystemExit: with 0 after printing help, a version or a completion script; with 2 after printing in one line why
            an option is unknown, missing or invalid, or the overview where a command is missing.
        R2T2Error: there is no such command, or the `--config` file does not fit the command.
    """
    if arguments and arguments[0] in COMPLETION:
        return tyro.cli(_tree(commands), prog=PROGRAM, args=arguments)
    if list(arguments) == ["--version"]:
        print(version_lines())
        sys.exit(0)
    name, options = _split(commands, arguments)
    if name not in commands:
        help_requested = bool(options) and options[0] in ("-h", "--help")
        if options and not help_requested:
            raise R2T2Error(_unknown(commands, name, options[0]))
        print(_overview(commands, name), file=sys.stdout if help_requested else sys.stderr)
        sys.exit(0 if help_requested else 2)
    command, ShellCompletion.commands = commands[name], commands
    try:
        if not {"-h", "--help"} & set(options):
            switches = [name for name, kind in get_type_hints(command).items() if kind is bool]
            others = other_names(name, command)
            switches += [switch for switch, option in others.items() if not option]
            check_words(name, options, {*_option_names(command), "config", *others}, switches, ELSEWHERE)
            options = parser_words(name, command, options)
        with_config = _read_options(name, command, saved_arguments(name, command, options))
    except UsageError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        sys.exit(2)
    values = {field.name: getattr(with_config, field.name) for field in dataclasses.fields(command)}  # type: ignore[arg-type]
    return command(**values)


def _read_options(name: str, command: type[Command], options: Sequence[str]) -> Command:
    """Parse the options with tyro, wrapping the usage and the description of its help, which tyro does not wrap.

    Raises:
        UsageError: an option is missing or invalid.
    """
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            return tyro.cli(_with_config(command), prog=f"{PROGRAM} {name}", args=options)
    except SystemExit as stop:
        if stop.code:
            raise UsageError(one_line(name, errors.getvalue())) from None
        raise
    finally:
        for line in _without_empty_defaults(output.getvalue()).splitlines():
            print(_wrapped(line))


def _wrapped(line: str) -> str:
    """A line of the help within the width; an example continues after a backslash, so that it can be pasted."""
    if line.startswith(" "):
        return line.rstrip()
    if not line.startswith(EXAMPLE):
        return textwrap.fill(line, WIDTH, subsequent_indent="  " if line.startswith("usage:") else "")
    lines = [""]
    for word in re.findall(r"""--\S+ (?!--|&&)(?:"[^"]*"|\S)+|(?:"[^"]*"|\S)+""", line):
        if lines[-1] and len(lines[-1]) + len(word) + len(" \\ ") > WIDTH:
            lines.append(" " * len(EXAMPLE))
        lines[-1] += word if not lines[-1].strip() else f" {word}"
    return " \\\n".join(lines)


def _without_empty_defaults(text: str) -> str:
    """The help without `None` and empty values as defaults; columns stay aligned."""
    text = re.sub(r"\s+\(default:\s*(None|'')?\)|;\s+default:\s*(None|'')?(?=\))", "", text)
    text = re.sub(r"\{None\}\|(\S+)(?= {2})", r"\1       ", text)
    return text.replace("{None}|", "")


def _split(commands: Commands, arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The longest prefix of the arguments that is a command or a group, and the remaining arguments."""
    name, rest = "", list(arguments)
    while rest and name not in commands:
        longer = f"{name} {rest[0]}".strip()
        if not _within(commands, longer):
            break
        name, rest = longer, rest[1:]
    return name, rest


def _within(commands: Commands, group: str) -> list[str]:
    """The commands of a group; all commands for the empty group."""
    return [name for name in commands if not group or f"{name} ".startswith(f"{group} ")]


def _unknown(commands: Commands, group: str, word: str) -> str:
    known = [name.removeprefix(group).split()[0] for name in _within(commands, group)]
    known = list(dict.fromkeys(known))
    if word.startswith("-"):
        return f"a command must come before the option {word}; commands: {', '.join(known)}"
    matches = difflib.get_close_matches(word, known, n=1)
    guess = f" did you mean {matches[0]!r}?" if matches else ""
    return f"unknown command {f'{group} {word}'.strip()!r};{guess} commands: {', '.join(known)}"


def _overview(commands: Commands, group: str) -> str:
    names = _within(commands, group)
    column = max(map(len, names)) + 4
    lines = [f"usage: {PROGRAM} {group} COMMAND [OPTIONS]".replace("  ", " "), "", ABOUT, "", "Commands:"]
    for name in names:
        summary = _paragraphs(commands[name])[0]
        lines += textwrap.wrap(summary, WIDTH, initial_indent=f"  {name}".ljust(column), subsequent_indent=" " * column)
    example = _wrapped(_paragraphs(commands[names[0]])[-1]) if group else BEGIN
    return "\n".join([*lines, "", example, FOOTER])


def _paragraphs(command: type[Command]) -> list[str]:
    """The paragraphs of a command's docstring, each on one line."""
    return [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(command) or "").split("\n\n")]


def _with_config(command: type[Command]) -> type[Command]:
    """The command with the option `--config` and the ranges of its numbers, for its help.

    `saved_arguments` reads the file before, and `options.check_ranges` checks the numbers.
    """
    argument = tyro.conf.arg(help="JSON file with defaults for these options, such as a run.json.", metavar="FILE")
    added: list[Any] = [("config", Annotated[Path | None, argument], dataclasses.field(default=None))]
    kinds = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):  # type: ignore[arg-type]
        settings: dict[str, Any] = {}
        if field.name in RANGES and kinds[field.name] is not str:
            settings["help_behavior_hint"] = functools.partial(_range_hint, str(RANGES[field.name]))
        if metavar := _metavar(field.name, kinds[field.name]):
            settings["metavar"] = metavar
        if settings:
            kind: Any = Annotated[kinds[field.name], tyro.conf.arg(**settings)]
            added.append((field.name, kind, dataclasses.field(default=field.default)))
    name, about = command.__name__, {"__doc__": inspect.getdoc(command)}
    return dataclasses.make_dataclass(name, added, bases=(command,), namespace=about, frozen=True)


def _metavar(name: str, kind: Any) -> str:
    """The placeholder of a value in the help: the option's name for texts, `...` after lists; empty for tyro's own."""
    annotated = hasattr(kind, "__metadata__")
    if annotated and any(getattr(mark, "metavar", None) for mark in kind.__metadata__):
        return ""
    positional = annotated and POSITIONAL in kind.__metadata__
    plain = kind.__origin__ if annotated else kind
    members = {member for member in (plain, *get_args(plain)) if member is not type(None)}
    own = METAVARS.get(name, name.upper())
    lists = [member for member in members if get_origin(member) is tuple]
    if lists:
        element = get_args(lists[0])[0]
        if get_origin(element) is Literal:
            return f"{{{','.join(get_args(element))}}} ..."
        return f"{own if element in (str, Path) else element.__name__.upper()} ..."
    return own if plain in (str, str | None) or (positional and plain is Path) else ""


def _range_hint(values: str, default: str) -> str:
    return f"({values}; default: {default})"


def _tree(commands: Commands) -> Any:
    """All commands as one type with nested groups, for the completion script."""
    groups: dict[str, dict[str, type[Command]]] = {}
    for name, command in commands.items():
        head, _, rest = name.partition(" ")
        groups.setdefault(head, {})[rest] = command
    kinds = []
    for head, members in groups.items():
        kind = _with_config(members[""]) if "" in members else _group(head, members)
        kinds.append(Annotated[kind, tyro.conf.subcommand(name=head)])
    # tyro needs a union of at least two types to offer subcommands.
    return functools.reduce(operator.or_, [*kinds, Annotated[None, tyro.conf.Suppress]])


def _group(head: str, commands: Commands) -> type:
    kind: Any = _tree(commands)
    return dataclasses.make_dataclass(head, [("command", Annotated[kind, tyro.conf.OmitSubcommandPrefixes])])


def check_writable(path: Path) -> None:
    """Check, before any work is done, that a file can be written.

    Raises:
        R2T2Error: its folder cannot be created or written, or the path is a folder or a device.
    """
    if path.is_dir():
        raise R2T2Error(f"cannot write {path}: it is a folder; name a file")
    if path.exists() and not path.is_file():
        raise R2T2Error(f"cannot write {path}: it is no regular file; name another")
    check_can_create(path)


def log(line: str) -> None:
    """Print a line above the progress bar, on standard error like the bar."""
    import sys

    from tqdm import tqdm

    from r2t2_jax.runtime import progress

    if not progress.shown:
        return
    tqdm.write(line, file=sys.stderr)


@dataclasses.dataclass(frozen=True)
class ShellCompletion:
    """Print the script that completes commands and options in a shell: eval "$(r2t2 completion bash)" loads it.

    Example: r2t2 completion bash
    """

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """The shell."""
    commands: ClassVar[Commands] = {}  # those of the program, set by `parse`

    def run(self) -> None:
        """Print the script."""
        parse(self.commands, [COMPLETION[0], self.shell])


def print_plan(port: Port, plan: Plan, unit: str, cluster: WorkerConfig | None, as_json: bool = False) -> None:
    """Print model, parts and workers of a run, for `--dry-run`."""
    from r2t2_jax.cli.output import print_result

    workers = None if cluster is None else cluster.describe()
    lines = [f"model       {port.name} ({port.fingerprint})"]
    for part in plan.parts:
        batches = -(-part.samples // part.batch)
        lines.append(f"{part.name:11} {part.samples:,} {unit} in {batches:,} batches of {part.batch}")
    parts = [{"name": part.name, unit: part.samples, "batch": part.batch} for part in plan.parts]
    content = {"model": port.name, "fingerprint": port.fingerprint, "parts": parts, "workers": workers}
    print_result(as_json, content, *lines, *([] if workers is None else [workers]))
