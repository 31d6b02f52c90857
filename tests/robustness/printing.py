"""A command that prints what tables and errors print: `python -m tests.robustness.printing`."""

import signal
import sys
from dataclasses import dataclass
from typing import ClassVar

from r2t2_jax.cli import main as cli
from r2t2_jax.errors import R2T2Error


@dataclass(frozen=True)
class Print:
    """Print arrows, letters that few encodings have, and terminal escapes."""

    action: ClassVar[str] = ""

    def run(self) -> None:
        print("wrong→right ±1 é \x1b[2J\x1b]0;title\x07", "\u202egpj.exe")
        if self.action == "fail":
            raise R2T2Error("no model \x1b[31mred\x9b2J")
        if self.action == "terminate":
            signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    cli.COMMANDS = {"print": Print}
    sys.exit(cli.main(["print"]))
