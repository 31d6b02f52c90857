"""The one error a user can cause."""


class R2T2Error(ValueError):
    """Bad input: names what was wrong, where, and what to do. The command line prints one line and exits with 2."""
