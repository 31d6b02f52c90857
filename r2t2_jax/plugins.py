"""Ports and datasets by name: what installed packages register under an entry-point group.

`r2t2_jax` imports no port. A package, this one included, names its objects in `pyproject.toml`:

    [project.entry-points."r2t2.ports"]
    pocket = "ports.pocket.port:load"
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from r2t2_jax.errors import R2T2Error


def registered(group: str) -> list[str]:
    """Sorted names of a group."""
    return sorted(set(entry_points(group=group).names))


def find(group: str, name: str, kind: str) -> Any:
    """The object registered as `name`; `kind` says in the error what it is.

    Raises:
        R2T2Error: nothing of that name is registered.
    """
    found = tuple(entry_points(group=group, name=name))
    if not found:
        known = ", ".join(registered(group)) or "none is installed"
        raise R2T2Error(f"unknown {kind} {name!r}; known: {known}")
    return found[0].load()
