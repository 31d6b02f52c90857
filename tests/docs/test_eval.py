"""Every command of docs/eval.md parses, and every option that it names exists."""

import re
import shlex
from pathlib import Path

from r2t2_jax.cli.main import COMMANDS
from r2t2_jax.cli.parsing import parse

PAGE = (Path(__file__).parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")


def test_every_command_line_parses() -> None:
    lines = re.findall(r"^r2t2 (.*)$", PAGE, re.MULTILINE)
    assert len(lines) == 12
    for line in lines:
        parse(COMMANDS, shlex.split(line, comments=True))


def test_every_named_option_exists(capsys) -> None:
    text = ""
    for name in ("eval", "export"):
        try:
            parse(COMMANDS, [name, "--help"])
        except SystemExit:
            text += capsys.readouterr().out
    named = set(
        re.findall(
            r"(?<![\w-])--([a-z][a-z-]+)",
            re.sub(r"`srun [^`]*?r2t2|`#SBATCH[^`]*`|`ray start [^`]*`|`python -m benchmarks[^`]*`", "", PAGE),
        )
    )
    others = {"model_args", "tasks", "model", "samples", "metric", "format", "dataset", "out"}  # of other commands
    for option in named - others:
        assert f"--{option}" in text, option
