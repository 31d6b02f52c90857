"""Ports by name: `load("pocket:narrow")`, or `load("my_package.my_port:port")` for a port that is not registered."""

from __future__ import annotations

import importlib

from r2t2_jax.contract import Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import find, registered

GROUP = "r2t2.ports"


def load(name: str) -> Port:
    """The port called `name`.

    Args:
        name: `port` or `port:variant` for a port registered in the entry-point group `r2t2.ports`, whose entry is a
            function `load(variant: str | None) -> Port`; or `module:attribute`, the attribute being a `Port` or a
            function without arguments that returns one.

    Raises:
        R2T2Error: no such port, or what was found is not one. A port raises the same for an unknown variant.
    """
    head, _, tail = name.partition(":")
    if head in registered(GROUP):
        port = find(GROUP, head, "port")(tail or None)
    elif tail:
        port = _attribute(head, tail)
        port = port if isinstance(port, Port) or not callable(port) else port()
    else:
        port = find(GROUP, head, "port")  # raises, naming the known ones
    if not isinstance(port, Port):
        raise R2T2Error(f"{name!r} gives a {type(port).__name__}, not a r2t2_jax.contract.Port")
    return port


def _attribute(module: str, attribute: str) -> object:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        known = ", ".join(registered(GROUP)) or "none is installed"
        raise R2T2Error(f"unknown port '{module}:{attribute}' ({error}); known: {known}") from error
