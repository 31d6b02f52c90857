"""Every command of README and of all pages: it parses, what it needs is made before it, and (slow) it runs in order."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from r2t2_jax.cli.aliases import other_names, parser_words
from r2t2_jax.cli.main import COMMANDS
from r2t2_jax.cli.parsing import parse
from r2t2_jax.method.needs import Need
from r2t2_jax.methods import METHODS, method_of

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("docs/**/*.md"))))
PAGES += tuple(str(page.relative_to(ROOT)) for page in sorted(ROOT.glob("ports/*/README.md")))
ACTIVATE = ". .venv/bin/activate"
GENERATED = ("docs/findings.md",)  # written by benchmarks.reproduce.publish; its command is that of docs/reproduce.md
WORD = r"""(?:"[^"]*"|'[^']*'|\S)+"""


@dataclass(frozen=True)
class Typed:
    """A command of a page: its words after `r2t2`."""

    page: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return next(" ".join(self.words[:n]) for n in (2, 1) if " ".join(self.words[:n]) in COMMANDS)

    @property
    def options(self) -> tuple[str, ...]:
        return self.words[len(self.name.split()) :]


def commands_of(page: str) -> list[Typed]:
    """The commands in the blocks of a page, in order: with continuations, prompts and comments, and after `&&`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    typed = []
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.removeprefix("$ ").split(" && "):
                if re.match(r"r2t2 [a-z]", part):
                    typed.append(Typed(page, tuple(shlex.split(part, comments=True)[1:])))
    return typed


ALL = [typed for page in PAGES for typed in commands_of(page)]


def parses(words: Sequence[str]) -> bool:
    """Whether the words parse; a file of settings, which an earlier command writes, is left out."""
    position = words.index("--config") if "--config" in words else len(words)
    return bool(parse(COMMANDS, [*words[:position], *words[position + 2 :]]))


PROGRAMS = r"python[\d.]*|pip|git|mkdocs|pre-commit|ray|curl|cat|docker|kubectl|\.ci/run|\.|\S+/bin/\w+"
SCRIPT = r"python (examples/\w+\.py)"


def other_commands_of(page: str) -> list[str]:
    """The lines of a page's shell blocks that run another program than r2t2, with continuations."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shell = [block.replace("\\\n", " ") for language, block in blocks if language in ("", "console", "bash", "sh")]
    lines = [line.removeprefix("$ ") for block in shell for line in block.splitlines()]
    return [line for line in lines if re.match(rf"(?:[A-Z_]+=\S+ )*(?:{PROGRAMS})(?:\s|$)", line)]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_parses(page: str) -> None:
    for typed in commands_of(page):
        assert parses(typed.words), typed


def test_the_pages_have_commands() -> None:
    assert len(ALL) > 60 and {typed.page for typed in ALL} >= {"README.md", "docs/eval.md", "docs/quickstart.md"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_name_options_that_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for code in re.findall(r"`r2t2 ([a-z][^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)):
        words = re.findall(WORD, code)
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS), "")
        assert name or any(command.startswith(f"{words[0]} ") for command in COMMANDS), f"{page}: {code}"
        if name:
            known = {*COMMANDS[name].__dataclass_fields__, *other_names(name, COMMANDS[name]), "config", "help"}
            known |= {"ray", "workers", "worker_resources", "model_uri"} if "cluster" in known else set()
            named = {word[2:].partition("=")[0].replace("-", "_") for word in words if re.match(r"--[a-z]", word)}
            assert named <= known, f"{page}: {code}"


@pytest.mark.parametrize("page", sorted({typed.page for typed in ALL} - {*GENERATED}))
def test_a_page_with_commands_says_how_to_activate_the_environment(page: str) -> None:
    assert ACTIVATE in (ROOT / page).read_text(encoding="utf-8")


def test_a_bank_and_an_atlas_are_made_before_they_are_read() -> None:
    for typed in ALL:
        if typed.name != "eval":
            continue
        options = parser_words("eval", COMMANDS["eval"], typed.options)
        bank = options[options.index("--bank") + 1]
        strategies = options[options.index("--strategy") + 1].split(",") if "--strategy" in options else []
        before = ALL[: ALL.index(typed)]
        made = [other for other in before if other.page == typed.page]
        built = [other for other in made if other.name == "bank build" and other.options[-1] == bank]
        built += [other for other in made if other.name == "bank build" and bank in other.options]
        assert built, f"{typed.page}: {bank} is not built before {shlex.join(typed.words)}"
        if any(needs_atlas(name) for name in strategies):
            atlases = [other for other in made if other.name == "bank atlas" and bank in other.options]
            assert atlases, f"{typed.page}: {bank} has no atlas before {shlex.join(typed.words)}"


def needs_atlas(name: str) -> bool:
    method = method_of(name)
    return method.atlas is not None or Need.ATLAS in getattr(method, "needs", ())


def test_only_known_strategies_are_named() -> None:
    assert needs_atlas("atlas") and needs_atlas("best_fixed") and not needs_atlas("ngd")
    assert {name for typed in ALL for name in strategies_of(typed)} <= {*METHODS, "magic"}  # of the quickstart's error


def strategies_of(typed: Typed) -> list[str]:
    if "--strategy" not in typed.words:
        return []
    return typed.words[typed.words.index("--strategy") + 1].split(",")


# Smaller numbers, so that the whole session runs in minutes: (pattern, replacement) in a command line.
SMALLER = (
    (r"^demo --quick", "demo --quick --limit 20"),
    (r"^demo --out", "demo --quick --limit 20 --out"),
    (r"--data pocket --out out/bank", "--data pocket --limit 60 --out out/bank"),
    (r"--limit [1-9]\d\d+", "--limit 40"),
    (r"^bank atlas (\S+)", r"bank atlas \1 --points 4 --candidates 8 --choosing 20 --k 3"),
    (r"^tune (.*)", r"tune \1 --budget 2"),
    (r"^reproduce c3po --model", "reproduce c3po --limit 4 --model"),
    (r"^reproduce table6 (.*)", r"reproduce table6 \1 --block 10"),
    (r"^reproduce sensitivity_scope (.*)--limit 40", r"reproduce sensitivity_scope \1--limit 4"),
    (r"^(eval .*)--limit 40(.*,warmup)", r"\1--limit 2\2"),
    (r"^(diagnose .*)--limit 40", r"\1--limit 20"),
)
PROBLEMS = ("diagnose", "bank inspect")  # exit with 1 where they find no gain or a leak
NOT_RUN = (  # pattern of a command line, and why it is not run here
    (r"\bSRC\b|\bDST\b|MODEL|FOLDER_OR_HUB_ID|CHECKPOINT|\bFILES\b", "has placeholders"),
    (r"^convert ", "reads a released checkpoint; tests/docs/test_convert.py converts tiny ones"),
    (r"models/|out/moai|out/mova|out/qwen|out/model|out/run\b|banks/", "needs a converted checkpoint"),
    (r"^datasets (prepare|show vqav2)", "reads official files; tests/docs/test_convert.py makes tiny ones"),
    (r"^aux ", "downloads auxiliary models"),
    (r"^export .*--trackio", "needs a tracker; tests/cli/test_eval_results.py replaces both"),
    (r"^serve ", "serves until a signal, as in tests/serve/test_access.py"),
    (r"moai:7b|mova:8b|qwen3_vl_moe:", "traces a model at full size; slow tests of tests/ports count these"),
    (
        r"reference\.json|(?<!countries/)questions\.jsonl|sums:load",
        "reads files of the reader's own, as in tests/docs/test_own_model.py",
    ),
    (
        r"^reproduce all --model pocket --out",
        "takes 25 minutes; tests/cli/test_reproduce.py runs some tables",
    ),
    (r"--max-hours 2|--strategy magic", "repeats a run, or shows an error, as tests/docs/test_quickstart.py does"),
)


OTHER = (  # pattern of a line that is no r2t2 command, and what runs it or why nothing does
    (rf"^{SCRIPT}", "run below, before the commands of its page"),
    (r"^python3(\.11)? -m venv|^\. \.venv/bin/activate", ".ci/run makes and uses such environments"),
    (
        r"^\.venv/bin/python -m pytest",
        ".ci/run takes it from README; slow tests run before a release",
    ),
    (r"^\.venv/bin/mypy|^python -m benchmarks\.notebooks", "a step of .ci/run"),
    (r"^\.ci/run", "runs these tests"),
    (r"^pre-commit install", "changes the repository; its hooks are steps of .ci/run"),
    (r"^lowest/bin/python -m pytest", "needs an environment of its own; run after changing a lower bound"),
    (r"^pip install -e '\.\[serve\]'", "the extra test has the packages of the server"),
    (r"^ray start", "needs several machines; tests/cli/test_eval_workers.py starts a cluster of processes"),
    (r"^python -m lmms_eval|^OPENAI_API_KEY=none python -m lmms_eval", "needs lmms-eval and its data"),
    (r"^curl .*/v1/chat/completions", "needs a running server; tests/serve/test_chat.py sends such requests"),
    (r"^cat > server\.json|^python -m vlmeval --config server\.json", "needs VLMEvalKit and its data"),
    (
        r"^python -m benchmarks\.(speed|startup|bank_rates)",
        "measures an idle machine for minutes; tests never measure time",
    ),
    (r"^python -m benchmarks\.accelerator", "needs an accelerator"),
    (r"^python draw\.py", "the reader's file, as tests/docs/test_convert.py runs it"),
)


def test_every_other_command_of_a_page_is_run_or_has_a_reason_why_not() -> None:
    lines = [(page, line) for page in PAGES for line in other_commands_of(page)]
    assert [each for each in lines if not any(re.search(pattern, each[1]) for pattern, _ in OTHER)] == []
    assert all(any(re.search(pattern, line) for _, line in lines) for pattern, _ in OTHER)
    named = {file for _, reason in OTHER + NOT_RUN for file in re.findall(r"tests/[\w/]+\.py", reason)}
    assert all((ROOT / file).is_file() for file in named)


def line_to_run(typed: Typed) -> str:
    """The command line with smaller numbers; empty if it is not run."""
    line = shlex.join(typed.words)
    if any(re.search(pattern, line) for pattern, _ in NOT_RUN):
        return ""
    for pattern, replacement in SMALLER:
        line = re.sub(pattern, replacement, line)
    return line


def test_the_commands_that_run_parse_with_smaller_numbers() -> None:
    lines = [line for typed in ALL if (line := line_to_run(typed))]
    assert len(lines) >= 20
    for line in lines:
        assert parses(shlex.split(line)), line
    assert all(any(re.search(pattern, shlex.join(typed.words)) for typed in ALL) for pattern, _ in NOT_RUN)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({typed.page for typed in ALL if line_to_run(typed)}))
def test_the_commands_of_a_page_run_in_order_from_an_empty_folder(page: str, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    for line in other_commands_of(page):
        if script := re.match(SCRIPT, line):
            words = [sys.executable, str(ROOT / script[1]), *shlex.split(line[script.end() :], comments=True)]
            subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    for typed in commands_of(page):
        if line := line_to_run(typed):
            command = [sys.executable, "-m", "r2t2_jax.cli.main", *shlex.split(line)]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            allowed = (0, 1) if typed.name in PROBLEMS else (0,)
            assert done.returncode in allowed, f"{line}\n{done.stderr[-2000:]}"
