"""The error type for bad input, the error for a missing extra, and the category of our own warnings."""


class R2T2Error(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line prints it and exits with 2."""


class R2T2Warning(UserWarning):
    """A fact that is needed to read a result; the command line prints it in one line."""


def missing_extra(purpose: str, package: str, extra: str) -> R2T2Error:
    """The error for a package of one of this project's extras that is not installed.

    Args:
        purpose: what needs the package.
        package: its name.
        extra: the extra that brings it.
    """
    return R2T2Error(f"{purpose} needs {package}; in the folder of r2t2-jax: pip install -e '.[{extra}]'")
