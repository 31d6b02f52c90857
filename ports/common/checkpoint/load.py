"""Reading model directories: checked first, then restored into the requested shapes, dtypes and shardings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.directory import (
    CHECKPOINT,
    DESCRIPTION,
    SCHEMA,
    TOKENIZER,
    crc32_of,
    digest_of,
    input_files,
    sha256_of,
)
from ports.common.checkpoint.mapping import assemble, named
from ports.common.checkpoint.orbax_writer import plain_path, single_error_report
from ports.common.configs import config_from_json
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.typed_files import path_below
from r2t2_jax.runtime.typed_json import open_json

GROUP_BYTES = 2**30


@dataclass(frozen=True)
class StoredParameter:
    """One entry of `parameters` in `model.json`: shape and dtype of a parameter, and the crc32 of its pieces."""

    shape: tuple[int, ...]
    dtype: str
    pieces: list[int]


@dataclass(frozen=True)
class _Description:
    """The content of `model.json` (`directory.py`)."""

    schema: int
    port: str
    config: dict[str, Any]
    source: str
    dtype: list[str]
    digest: str
    inputs: dict[str, str]
    tokenizer: dict[str, str]
    report: dict[str, Any]
    parameters: dict[str, StoredParameter]
    checkpoint: dict[str, int]
    unknown_fields: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelDirectory:
    """An opened model directory. `config` is the port's config as parsed JSON; `digest` identifies the weights."""

    path: Path
    port: str
    config: Mapping[str, Any]
    digest: str
    parameters: Mapping[str, StoredParameter]

    @property
    def tokenizer(self) -> Path:
        """The folder with the source's tokenizer files."""
        return self.path / TOKENIZER


def open_model_directory(path: str | Path, port: str) -> ModelDirectory:
    """Check a model directory: description, port, file sizes, the tokenizer's sha256.

    Weights are checked by their files' sizes here, and by their checksums as they are read.

    Raises:
        R2T2Error: not a model directory, another port's, or damaged.
    """
    folder = Path(path)
    model = _read_description(folder)
    directory = ModelDirectory(folder, model.port, model.config, model.digest, model.parameters)
    if directory.port != port:
        raise R2T2Error(f"{folder} holds a model of port {directory.port!r}, not {port!r}")
    problems = [
        f"{name} is {'not there' if actual is None else f'{actual} bytes instead of {size}'}"
        for name, size in model.checkpoint.items()
        if (actual := _size(path_below(folder / CHECKPOINT, name, str(folder / DESCRIPTION)))) != size
    ]
    for name, digest in model.tokenizer.items():
        file = path_below(directory.tokenizer, name, str(folder / DESCRIPTION))
        if _size(file) is None or sha256_of(file) != digest:
            problems.append(f"{TOKENIZER}/{name} is not the file that was converted")
    if problems:
        raise R2T2Error(f"{folder} is damaged: {'; '.join(problems)}; convert the model again")
    return directory


def split_variant(variant: str) -> tuple[str, list[tuple[str, str]]]:
    """The folder or size that a variant names, and its settings, as in `DIR,dtype=float32`; DIR may have commas."""
    head, *settings = re.split(r",(?=\w+=)", variant)
    if not Path(head).is_dir():
        head, *settings = variant.split(",")
    pairs = [setting.partition("=") for setting in settings]
    return (variant, []) if Path(variant).is_dir() else (head, [(name, value) for name, _, value in pairs])


def _read_description(folder: Path) -> _Description:
    """The content of `model.json`; another schema is refused with the command that converts the model again."""
    file = folder / DESCRIPTION
    if not file.is_file():
        raise R2T2Error(f"{folder} is no model directory (it has no {DESCRIPTION}); make one with r2t2 convert")
    try:
        document = open_json(file)
        schema = document.member("schema")
        port, source = document.member("port"), document.member("source")
        if schema == SCHEMA:
            model = document.as_type(_Description)
    except R2T2Error as error:
        raise R2T2Error(f"{file} is damaged ({error}); convert the model again") from error
    if schema != SCHEMA:
        again = f"remove it and convert again: r2t2 convert {port} {source} {folder}"
        raise R2T2Error(f"{folder} has schema {schema}, this version of r2t2-jax reads {SCHEMA}; {again}")
    if not model.parameters or any(size < 0 for entry in model.parameters.values() for size in entry.shape):
        raise R2T2Error(f"{file} is damaged ('parameters' cannot be); convert the model again")
    return model


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def restore(directory: ModelDirectory, abstract: Any, weights: bool = True) -> Any:
    """The parameters of a model directory.

    Args:
        directory: the model directory.
        weights: if false, `abstract` is checked against the directory and returned; no weight is read.
        abstract: a tree of `jax.ShapeDtypeStruct`. Values are cast to a leaf's dtype on the host and placed on devices
            by the leaf's sharding, if it has one.

    Raises:
        R2T2Error: names or shapes differ from the directory's (the message lists all), or a file is damaged.
    """
    leaves = named(abstract)
    problems = [
        *(f"no parameter {path}" for path in leaves if path not in directory.parameters),
        *(f"unknown parameter {path}" for path in directory.parameters if path not in leaves),
        *(
            f"{path} has shape {directory.parameters[path].shape}, not {tuple(leaf.shape)}"
            for path, leaf in leaves.items()
            if path in directory.parameters and directory.parameters[path].shape != tuple(leaf.shape)
        ),
    ]
    if problems:
        raise R2T2Error(f"{directory.path} does not fit the model: {'; '.join(problems)}; convert the model again")
    if not weights:
        return abstract
    filled: dict[str, jax.Array] = {}
    for group in _groups(leaves):
        for path, pieces in _load(directory, group).items():
            leaf = leaves[path]
            value = np.concatenate(pieces).reshape(leaf.shape).astype(leaf.dtype, copy=False)
            filled[path] = jax.device_put(value, leaf.sharding)
    _, structure = jax.tree.flatten(abstract)
    return jax.tree.unflatten(structure, [filled[path] for path in leaves])


def _groups(leaves: Mapping[str, Any]) -> list[list[str]]:
    """Names of parameters to read together; host memory holds one group at a time."""
    groups: list[list[str]] = [[]]
    held = 0
    for path, leaf in leaves.items():
        size = leaf.size * leaf.dtype.itemsize
        if groups[-1] and held + size > GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(path)
        held += size
    return groups


def _load(directory: ModelDirectory, paths: list[str]) -> dict[str, list[np.ndarray]]:
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    source = directory.path / CHECKPOINT
    try:
        with context, single_error_report(), plain_path(source) as folder:
            stored = ocp.metadata(folder).metadata
            loaded = ocp.load(folder, {path: stored[path] for path in paths})
    except (OSError, ValueError, KeyError, TypeError) as error:  # TypeError: Orbax found no metadata, and only warned
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{source} cannot be read ({reason}); convert the model again") from error
    pieces = {path: [loaded[path][str(i)] for i in range(len(loaded[path]))] for path in paths}
    damaged = [path for path in paths if [crc32_of(part) for part in pieces[path]] != directory.parameters[path].pieces]
    if damaged:
        raise R2T2Error(f"{source} is damaged (checksums of {', '.join(damaged)}); convert the model again")
    return pieces


Config = TypeVar("Config")


@dataclass(frozen=True)
class Opened(Generic[Config]):
    """Config, parameters, the sha256 that identifies weights and tokenizer, and the folder of the tokenizer's files."""

    config: Config
    params: Any
    digest: str
    tokenizer: Path


def open_model(converter: Converter, kind: type[Config], path: str | Path, dtype: str | None = None) -> Opened[Config]:
    """Read a model from a model directory or from its upstream folder; parameters and digest are the same.

    Args:
        converter: of the port.
        kind: the config's class; it has a field `dtype`.
        path: a model directory, the upstream folder, or a hub id.
        dtype: of parameters and activations; None for that of the first parameter on disk.

    Raises:
        R2T2Error: it is missing, damaged, or another model.
    """
    if (Path(path) / DESCRIPTION).is_file():
        directory = open_model_directory(path, converter.port)
        first = next(iter(directory.parameters.values())).dtype
        config = config_from_json(kind, {**directory.config, "dtype": dtype or first})
        params = restore(directory, converter.abstract_params(config))
        return Opened(config, params, directory.digest, directory.tokenizer)
    described = converter.describe(path)
    config, checkpoint = converter.open(path, described)
    converter.check(config, checkpoint)
    leaves = converter.leaves(config)
    first = str(checkpoint[next(iter(leaves.values())).names[0]].dtype)
    config = dataclasses.replace(config, dtype=dtype or first)
    params = assemble(leaves, checkpoint.weights, converter.abstract_params(config))
    inputs = input_files(checkpoint, described.tokenizer)
    digest = digest_of({name: sha256_of(file) for name, file in inputs.items()})
    return Opened(config, params, digest, described.folder)
