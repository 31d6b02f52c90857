"""The error type for bad input."""


class R2T2Error(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line prints it and exits with 2."""
