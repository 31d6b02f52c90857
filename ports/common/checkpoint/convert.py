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
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ports.common.checkpoint.directory import check_destination, write_model_directory
from ports.common.checkpoint.formats import Checkpoint, open_checkpoint
from ports.common.checkpoint.mapping import ConversionReport, Leaf, Tensor, check, stored
from ports.common.configs import ConfigFields, report_unknown, unknown_fields
from r2t2_jax.errors import R2T2Error, missing_extra

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
DESCRIPTIONS = ("*.json", "*.model", "*.txt", "*.jinja")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip

VOCABULARY = "vocab.txt"

logger = logging.getLogger("r2t2")


def fetch_descriptions(source: str | Path) -> Path:
    """The folder `source`, or a local copy of the JSON and text files of the hub model with that id.

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
    return _download(str(source), allow_patterns=list(DESCRIPTIONS))


def fetch_weights(source: str | Path, folders: Sequence[str] = (".",)) -> None:
    """Complete the copy that `fetch_descriptions` made by the weights in `folders`, in one format; a folder stays.

    Raises:
        R2T2Error: the hub does not provide them.
    """
    if Path(source).is_dir():
        return
    for suffix in ("safetensors", "bin"):
        weights = [f"{place}/*.{suffix}" for place in folders if place != "."]
        copy = _download(str(source), allow_patterns=[*DESCRIPTIONS, *weights])
        if "." in folders:  # a star matches slashes too
            _download(str(source), allow_patterns=[f"*.{suffix}"], ignore_patterns=[f"*/*.{suffix}"])
        if any(copy.rglob(f"*.{suffix}")):
            return


def _download(name: str, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra(f"no folder {name}; to fetch it as a hub id", "huggingface_hub", "convert") from error
    try:
        return Path(snapshot_download(name, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
    except (OSError, ValueError, RuntimeError) as error:  # what the hub's client raises descends from these
        reason = str(error).strip().partition("\n")[0]
        raise R2T2Error(f"no folder {name}, and the hub does not give a model of that id: {reason}") from error


def tokenizer_files(folder: Path, names: Sequence[str] = TOKENIZER) -> tuple[Path, ...]:
    """The files of these names that a folder contains, in a fixed order; by default those of a tokenizer."""
    return tuple(folder / name for name in names if (folder / name).is_file())


@dataclass(frozen=True)
class SideFile:
    """A file next to the weights that a port reads.

    Args:
        names: its name inside the upstream folder, or alternatives; patterns are allowed.
        content: what it contains, for messages.
        origin: where to get it if the source lacks it, for messages.
        assumed: what is used without it, for the warning; if this is empty, the file is required.
        needed: whether the model in an upstream folder reads the file.
    """

    names: tuple[str, ...]
    content: str
    origin: str
    assumed: str = ""
    needed: Callable[[Path], bool] = lambda folder: True

    def exists(self, folder: Path, files: Collection[str] = ()) -> bool:
        """Whether the folder has the file, or it is one of the tokenizer's `files`."""
        return any(name in files or (name not in TOKENIZER and any(folder.glob(name))) for name in self.names)

    @property
    def description(self) -> str:
        """Its names and content."""
        return f"{' or '.join(self.names)} ({self.content})"


CONFIG_FILE = SideFile(("config.json",), "the sizes of the model", "it belongs to the checkpoint")
TOKENIZER_JSON = SideFile(("tokenizer.json",), "the tokenizer", "it belongs to the checkpoint")


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
        side_files: files next to the weights that the port reads; missing ones are reported before weights are fetched.
        adapt: the config for a checkpoint with tensors of these names, if releases of the model name them differently.
        check_files: called with the config and the tokenizer's files by name; raises an R2T2Error for a wrong one.
        tied: pairs (kept, dropped) of upstream names whose tensors must be equal if both exist.
        folders: the folders with weights inside the upstream folder, each with its own index.
        copied: names of the files that are copied with the tokenizer.
        known: what the port knows about the fields of the upstream folder's JSON files, by file or pattern; or, if
            folders differ in their fields, a function of the config that returns this.
        hub: the hub id of released weights.
    """

    port: str
    config_from: Callable[[Path], Any]
    leaves: Callable[[Any], Mapping[str, Leaf]]
    ignored: Callable[[Any], tuple[str, ...]]
    abstract_params: Callable[[Any], Any]
    side_files: tuple[SideFile, ...] = (CONFIG_FILE,)
    adapt: Callable[[Any, Collection[str]], Any] = lambda config, names: config
    check_files: Callable[[Any, Mapping[str, Path]], None] = lambda config, files: None
    tied: Callable[[Any], tuple[tuple[str, str], ...]] = lambda config: ()
    folders: tuple[str, ...] = (".",)
    copied: tuple[str, ...] = TOKENIZER
    known: Mapping[str, ConfigFields] | Callable[[Any], Mapping[str, ConfigFields]] = field(default_factory=dict)
    hub: str = ""

    def convert(
        self,
        source: str,
        destination: Path,
        *,
        progress: bool = True,
        strict: bool = False,
        tokenizer: Path | None = None,
        vocabulary: Path | None = None,
    ) -> dict[str, Any]:
        """Convert a checkpoint into a model directory.

        Args:
            source: a folder, or a hub id (`owner/name`), which needs the extra `convert`.
            destination: the directory to make; it must not exist yet.
            progress: show a bar on standard error.
            strict: refuse unknown fields of the configs instead of warning of them.
            tokenizer: a folder with tokenizer files, used instead of those of the source.
            vocabulary: a `vocab.txt`, used instead of that of the source.

        Returns:
            The content of the new `model.json`; its field `unknown_fields` has the unknown fields by file.

        Raises:
            R2T2Error: the source is damaged or does not fit (the message lists every problem), or the destination
                cannot be written. Nothing is left at the destination then.
        """
        check_destination(destination)
        described = self.describe(source, strict=strict, tokenizer=tokenizer, vocabulary=vocabulary)
        config, checkpoint = self.open(source, described)
        report = self.check(config, checkpoint)
        return write_model_directory(
            destination,
            described={
                "port": self.port,
                "config": dataclasses.asdict(config),
                "source": source,
                "unknown_fields": described.unknown_fields,
            },
            parameters=stored(self.leaves(config), tensors_of(checkpoint)),
            checkpoint=checkpoint,
            tied=report.tied,
            report=report.summary(),
            tokenizer=described.tokenizer,
            progress=progress,
        )

    def describe(
        self,
        source: str | Path,
        *,
        strict: bool = False,
        tokenizer: Path | None = None,
        vocabulary: Path | None = None,
    ) -> DescribedSource:
        """Everything about a source but its weights; unknown fields and files that are assumed are logged.

        Args:
            source: a folder or a hub id.
            strict, tokenizer, vocabulary: as for `convert`.

        Raises:
            R2T2Error: the source lacks files (the message names all and where to put them), a field has a value that
                the port does not implement, or `strict` is true and a field is unknown.
        """
        folder = fetch_descriptions(source)
        files = self._tokenizer_files(folder, tokenizer, vocabulary)
        self._check_side_files(str(source), folder, files)
        try:
            config = self.config_from(folder)
        except (TypeError, AttributeError, KeyError, ArithmeticError) as error:
            raise R2T2Error(f"{folder / 'config.json'} has a value of the wrong type ({error})") from error
        unknown = unknown_fields(folder, self.known(config) if callable(self.known) else self.known)
        self.check_files(config, files)
        report_unknown(self.port, unknown, strict=strict)
        return DescribedSource(folder, config, files, unknown)

    def open(self, source: str | Path, described: DescribedSource) -> tuple[Any, Checkpoint]:
        """The weights of a source, fetched first if it is a hub id, and the config adapted to their names.

        Raises:
            R2T2Error: the weights are missing or damaged.
        """
        fetch_weights(source, self.folders)
        checkpoint = open_checkpoint(described.folder, self.folders)
        return self.adapt(described.config, checkpoint), checkpoint

    def _tokenizer_files(self, folder: Path, tokenizer: Path | None, vocabulary: Path | None) -> dict[str, Path]:
        """The tokenizer's files by name: of the source, unless others are given."""
        files = tokenizer_files(folder, self.copied)
        if tokenizer is not None:
            if not tokenizer_files(tokenizer):
                raise R2T2Error(f"{tokenizer} has no tokenizer files; known are {', '.join(TOKENIZER)}")
            own = (file for file in files if file.name == VOCABULARY or file.name not in TOKENIZER)
            files = (*own, *tokenizer_files(tokenizer, self.copied))
        named = {file.name: file for file in files}
        if vocabulary is None:
            return named
        read = sorted({name for file in self.side_files for name in file.names})
        if VOCABULARY not in read:
            raise R2T2Error(f"{self.port} reads no {VOCABULARY}; it reads {', '.join(read)}")
        if not vocabulary.is_file():
            raise R2T2Error(f"no file {vocabulary}; it must be the {VOCABULARY} of the text encoder")
        return named | {VOCABULARY: vocabulary}

    def _check_side_files(self, source: str, folder: Path, files: Mapping[str, Path]) -> None:
        missing = [file for file in self.side_files if file.needed(folder) and not file.exists(folder, files)]
        problems = [f"{file.description}: {file.origin}" for file in missing if not file.assumed]
        if problems:
            place = folder if Path(source).is_dir() else "a folder into which you download the model, and convert that"
            raise R2T2Error(
                f"{source} lacks {'; '.join(problems)}. Put what is missing into {place}; r2t2 convert also takes a "
                "tokenizer by --tokenizer FOLDER and vocab.txt by --vocab FILE"
            )
        for file in missing:
            logger.warning("%s lacks %s: %s is assumed; %s", source, file.description, file.assumed, file.origin)

    def check(self, config: Any, checkpoint: Checkpoint) -> ConversionReport:
        """The mapped, ignored and tied names of a checkpoint; raises as `mapping.check`."""
        leaves, abstract = self.leaves(config), self.abstract_params(config)
        return check(leaves, tensors_of(checkpoint), abstract, self.ignored(config), self.tied(config))


@dataclass(frozen=True)
class DescribedSource:
    """A source without its weights: the local folder, the port's config, tokenizer files by name, unknown fields."""

    folder: Path
    config: Any
    tokenizer: Mapping[str, Path]
    unknown_fields: Mapping[str, Mapping[str, Any]]


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Shape and dtype of every tensor of a checkpoint."""
    return {name: Tensor(entry.shape, str(entry.dtype)) for name, entry in checkpoint.items()}
