"""A model from where the user has it: a converted directory, or, for small models, the upstream folder itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from ports.common.assembling import assemble
from ports.common.checkpoints import open_checkpoint
from ports.common.configs import config_from_json
from ports.common.conversion import Converter
from ports.common.digests import described_by, digest_of, name_in, sha256_of
from ports.common.model_directory import DESCRIPTION
from ports.common.restoring import open_model_directory, restore
from ports.common.sources import fetch

Config = TypeVar("Config")


@dataclass(frozen=True)
class Opened(Generic[Config]):
    """Config, parameters, the sha256 that names weights and tokenizer, and the folder of the tokenizer's files."""

    config: Config
    params: Any
    digest: str
    tokenizer: Path


def open_model(converter: Converter, kind: type[Config], path: str | Path, dtype: str | None = None) -> Opened[Config]:
    """Read a model; both ways give the same parameters and the same digest.

    Args:
        converter: of the port.
        kind: the config's class; it has a field `dtype`.
        path: a model directory, the upstream folder, or a hub id.
        dtype: of parameters and activations; that of the first parameter on disk where not given.

    Raises:
        R2T2Error: it is missing, damaged, or another model.
    """
    if (Path(path) / DESCRIPTION).is_file():
        directory = open_model_directory(path, converter.port)
        first = next(iter(directory.parameters.values()))["dtype"]
        config = config_from_json(kind, {**directory.config, "dtype": dtype or first})
        params = restore(directory, converter.abstract_params(config))
        return Opened(config, params, directory.digest, directory.tokenizer)
    folder = fetch(path, converter.folders)
    config, checkpoint = converter.config_from(folder), open_checkpoint(folder, converter.folders)
    converter.check(config, checkpoint)
    leaves = converter.leaves(config)
    first = str(checkpoint[next(iter(leaves.values())).names[0]].dtype)
    config = dataclasses.replace(config, dtype=dtype or first)
    params = assemble(leaves, lambda name: checkpoint[name].read(), converter.abstract_params(config))
    inputs = {*checkpoint.files, *converter.tokenizer(folder), *described_by(folder)}
    digest = digest_of({name_in(folder, file): sha256_of(file) for file in inputs})
    return Opened(config, params, digest, folder)
