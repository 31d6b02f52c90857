"""Every command of docs/eval.md can be typed as it stands."""

import re
import shlex
from pathlib import Path

from r2t2_jax.cli.main import COMMANDS
from r2t2_jax.cli.parsing import parse

PAGE = (Path(__file__).parents[2] / "docs" / "eval.md").read_text(encoding="utf-8")


def test_every_command_line_can_be_read() -> None:
    typed = re.findall(r"^r2t2 (.*)$", PAGE, re.MULTILINE)
    assert len(typed) == 10
    for line in typed:
        parse(COMMANDS, shlex.split(line, comments=True))


def test_every_option_it_names_is_there(capsys) -> None:
    said = ""
    for name in ("eval", "export"):
        try:
            parse(COMMANDS, [name, "--help"])
        except SystemExit:
            said += capsys.readouterr().out
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", re.sub(r"`srun [^`]*?r2t2|`#SBATCH[^`]*`", "", PAGE)))
    others = {"model_args", "tasks", "model", "samples", "metric", "format", "dataset", "out"}  # of other commands
    for option in named - others:
        assert f"--{option}" in said, option
