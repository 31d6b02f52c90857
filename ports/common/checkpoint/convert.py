"""Conversion of a PyTorch checkpoint into a model directory, the same for every port.

A port defines a `Converter`, usually at the end of its `params.py`, and registers it in `pyproject.toml`:

    [project.entry-points."r2t2.converters"]
    moai = "ports.moai.params:converter"

`r2t2 convert moai SRC DST` then calls `converter.convert(SRC, DST)`. Everything that can be checked by names and shapes
is checked before a byte is written (`mapping.py`); tensors are read one by one (`formats.py`) and written piece by
piece into a directory that is published with one rename (`directory.py`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports.common.checkpoint.directory import write_model_directory
from ports.common.checkpoint.formats import Checkpoint, open_checkpoint
from ports.common.checkpoint.mapping import ConversionReport, Leaf, Tensor, check, stored
from ports.common.configs import ConfigFields, report_unknown, unknown_fields
from r2t2_jax.errors import R2T2Error

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip


def fetch(source: str | Path, folders: Sequence[str] = (".",)) -> Path:
    """The folder `source`, or the local copy of the hub model with that id.

    From a hub, the weights in `folders` are fetched in one format, with all JSON and text files.

    Raises:
        R2T2Error: there is no such folder, and the hub does not provide the model either.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise R2T2Error(f"{folder} is a file; name the folder that holds config.json and the weights")
    if not HUB_ID.fullmatch(str(source)):
        raise R2T2Error(f"no folder {folder}, and it is no hub id (owner/name) either")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise R2T2Error(
            f"no folder {folder}; to fetch it as a hub id install the extra: pip install 'r2t2-jax[convert]'"
        ) from error
    try:
        for suffix in ("safetensors", "bin"):
            weights = [f"{place}/*.{suffix}" for place in folders if place != "."]
            described = ["*.json", "*.model", "*.txt", *weights]
            copy = Path(snapshot_download(str(source), allow_patterns=described))
            if "." in folders:  # a star matches slashes too
                snapshot_download(str(source), allow_patterns=[f"*.{suffix}"], ignore_patterns=[f"*/*.{suffix}"])
            if any(copy.rglob(f"*.{suffix}")):
                break
        return copy
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's client raises descends from these
        reason = str(error).strip().partition("\n")[0]
        raise R2T2Error(f"no folder {folder}, and the hub does not give a model of that id: {reason}") from error


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer files that a folder contains, in a fixed order."""
    return tuple(folder / name for name in TOKENIZER if (folder / name).is_file())


@dataclass(frozen=True)
class Converter:
    """Description of a port's upstream checkpoint.

    Args:
        port: the name under which the converted directory is loaded again.
        config_from: the port's config (a frozen dataclass that JSON can hold) from the upstream folder, its
            `config.json` for the most part.
        leaves: how every parameter is made of upstream tensors, by its path in the NNX state.
        ignored: regular expressions, matched against whole names, of upstream tensors that are not needed.
        abstract_params: the parameters as shapes (`nnx.eval_shape`), without memory.
        tokenizer: the files to copy from the upstream folder into `tokenizer/`.
        tied: pairs (kept, dropped) of upstream names whose tensors must be equal if both exist.
        folders: the folders with weights inside the upstream folder, each with its own index.
        known: what the port knows about the fields of the upstream folder's JSON files, by file or pattern.
    """

    port: str
    config_from: Callable[[Path], Any]
    leaves: Callable[[Any], Mapping[str, Leaf]]
    ignored: Callable[[Any], tuple[str, ...]]
    abstract_params: Callable[[Any], Any]
    tokenizer: Callable[[Path], tuple[Path, ...]] = tokenizer_files
    tied: Callable[[Any], tuple[tuple[str, str], ...]] = lambda config: ()
    folders: tuple[str, ...] = (".",)
    known: Mapping[str, ConfigFields] = field(default_factory=dict)

    def convert(self, source: str, destination: Path, *, progress: bool = True, strict: bool = False) -> dict[str, Any]:
        """Convert a checkpoint into a model directory.

        Args:
            source: a folder, or a hub id (`owner/name`), which needs the extra `convert`.
            destination: the directory to make; it must not exist yet.
            progress: show a bar on standard error.
            strict: refuse unknown fields of the configs instead of warning of them.

        Returns:
            The content of the new `model.json`; its field `unknown_fields` has the unknown fields by file.

        Raises:
            R2T2Error: the source is damaged or does not fit (the message lists every problem), or the destination
                cannot be written. Nothing is left at the destination then.
        """
        folder = fetch(source, self.folders)
        config, unknown = self.read_config(folder, strict)
        checkpoint = open_checkpoint(folder, self.folders)
        report = self.check(config, checkpoint)
        return write_model_directory(
            destination,
            described={
                "port": self.port,
                "config": dataclasses.asdict(config),
                "source": source,
                "unknown_fields": unknown,
            },
            parameters=stored(self.leaves(config), tensors_of(checkpoint)),
            checkpoint=checkpoint,
            tied=report.tied,
            report=report.summary(),
            tokenizer=self.tokenizer(folder),
            progress=progress,
        )

    def read_config(self, folder: Path, strict: bool = False) -> tuple[Any, dict[str, dict[str, Any]]]:
        """The port's config of an upstream folder, and its unknown fields, which are reported.

        Raises:
            R2T2Error: a field has a value that the port does not implement, or `strict` is true and a field is unknown.
        """
        config, unknown = self.config_from(folder), unknown_fields(folder, self.known)
        report_unknown(self.port, unknown, strict=strict)
        return config, unknown

    def check(self, config: Any, checkpoint: Checkpoint) -> ConversionReport:
        """Check that the mapping covers this checkpoint; see `mapping.check`."""
        leaves, abstract = self.leaves(config), self.abstract_params(config)
        return check(leaves, tensors_of(checkpoint), abstract, self.ignored(config), self.tied(config))


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Shape and dtype of every tensor of a checkpoint."""
    return {name: Tensor(entry.shape, str(entry.dtype)) for name, entry in checkpoint.items()}
