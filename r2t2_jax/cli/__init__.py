"""The command line: one file per family of commands."""

import sys


def run() -> int:
    """The command `r2t2`: as `main.main`, also if it is interrupted while Python imports it."""
    try:
        from r2t2_jax.cli.main import main
    except KeyboardInterrupt:
        print("r2t2: interrupted", file=sys.stderr)
        return 130
    return main()
