"""The role of a strategy in a comparison, and its description: both from the docstring of its function.

The first line of the docstring describes the strategy; a prefix such as `Control: ` is its role.
"""

from __future__ import annotations

import inspect

from r2t2_jax.methods import METHODS

METHOD, CONTROL, BOUND = "method", "control", "bound"
ROLES = {
    METHOD: "re-routing methods",
    CONTROL: "controls, which need no good neighbors",
    BOUND: "reference points that use information unavailable at test time",
}
PREFIXES = {
    "Control: ": CONTROL,
    "Practical ceiling: ": BOUND,
    "Label-searched: ": BOUND,
    "Permuted labels: ": BOUND,
}
# Suffixes of strategies with the settings of a paper, in a run with settings of its own.
SUFFIXES = {"_paper": "with the paper's settings", "_c3po": "with C3PO's settings"}


def role(strategy: str) -> str:
    """`method`, `control` or `bound`; strategies that are not in `METHODS` are methods."""
    line = _first_line(strategy)
    return next((key for prefix, key in PREFIXES.items() if line.startswith(prefix)), METHOD)


def description(strategy: str) -> str | None:
    """A phrase that describes the strategy; `None` if it is not in `METHODS`."""
    line = _first_line(strategy).rstrip(".")
    for prefix in PREFIXES:
        line = line.removeprefix(prefix)
    if not line:
        return None
    suffix = next((f", {text}" for end, text in SUFFIXES.items() if strategy.endswith(end)), "")
    return line[0].lower() + line[1:] + suffix


def tag(strategy: str) -> str:
    """`label-searched` for `oracle`, `practical ceiling`, `permuted labels`; empty for methods and controls."""
    prefix = next((prefix for prefix in PREFIXES if _first_line(strategy).startswith(prefix)), "")
    return prefix.removesuffix(": ").lower() if PREFIXES.get(prefix) == BOUND else ""


def _first_line(strategy: str) -> str:
    plain = next((strategy.removesuffix(end) for end in SUFFIXES if strategy.endswith(end)), strategy)
    factory = METHODS.get(strategy) or METHODS.get(plain)
    return "" if factory is None else (inspect.getdoc(factory) or "").partition("\n")[0]
