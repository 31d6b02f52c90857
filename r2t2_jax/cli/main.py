"""`r2t2`: reads the arguments, runs the subcommand, and turns bad input into one line and exit code 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from r2t2_jax.cli.demo import Demo
from r2t2_jax.errors import R2T2Error

COMMANDS: dict[str, Callable[..., Demo]] = {"demo": Demo}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; `arguments` default to those of the process.

    Returns:
        0; 2 after an `R2T2Error`, which is printed in one line, or with `R2T2_DEBUG=1` raised; 130 after an
        interruption. Arguments that cannot be read exit with 2 from inside the parser.
    """
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="r2t2",
        description="Test-time re-routing of multimodal mixture-of-experts models.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        command.run()
    except R2T2Error as error:
        if os.environ.get("R2T2_DEBUG") == "1":
            raise
        print(f"r2t2: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("r2t2: interrupted", file=sys.stderr)
        return 130  # what a shell expects of SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
