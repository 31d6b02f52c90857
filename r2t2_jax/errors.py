"""The error type for bad input, and the category of our own warnings."""


class R2T2Error(ValueError):
    """Bad input: the message says what is wrong, where, and what to do. The command line prints it and exits with 2."""


class R2T2Warning(UserWarning):
    """What a user must know to read a result; the command line prints it in one line."""
