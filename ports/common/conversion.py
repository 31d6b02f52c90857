"""From a PyTorch checkpoint to a model directory, the same way for every port.

A port hands over a `Converter`, usually at the end of its `params.py`, and registers it in `pyproject.toml`:

    [project.entry-points."r2t2.converters"]
    moai = "ports.moai.params:converter"

`r2t2 convert moai SRC DST` then calls `converter.convert(SRC, DST)`. Everything that can be checked by names and shapes
is checked before a byte is written (`matching.py`); tensors are read from memory maps (`checkpoints.py`) and written
piece by piece into a directory that appears whole or not at all (`model_directory.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports.common.checkpoints import Checkpoint, open_checkpoint
from ports.common.mapping import Leaf
from ports.common.matching import Report, Tensor, check, stored
from ports.common.model_directory import write_model_directory
from ports.common.sources import fetch, tokenizer_files


@dataclass(frozen=True)
class Converter:
    """What a port knows about its upstream checkpoint.

    Args:
        port: the name under which the converted directory is loaded again.
        config_from: the port's config (a frozen dataclass that JSON can hold) from the upstream folder, its
            `config.json` for the most part.
        leaves: how every parameter is made of upstream tensors, by its path in the NNX state.
        ignored: regular expressions, anchored here, of upstream names that are known and not needed.
        abstract_params: the parameters as shapes (`nnx.eval_shape`), no memory.
        tokenizer: the files to copy from the upstream folder into `tokenizer/`.
        tied: pairs (kept, dropped) of upstream names that must be equal where both are there.
        folders: where in the upstream folder weights lie, each with its own index.
    """

    port: str
    config_from: Callable[[Path], Any]
    leaves: Callable[[Any], Mapping[str, Leaf]]
    ignored: Callable[[Any], tuple[str, ...]]
    abstract_params: Callable[[Any], Any]
    tokenizer: Callable[[Path], tuple[Path, ...]] = tokenizer_files
    tied: Callable[[Any], tuple[tuple[str, str], ...]] = lambda config: ()
    folders: tuple[str, ...] = (".",)

    def convert(self, source: str, destination: Path, *, progress: bool = True) -> dict[str, Any]:
        """Convert a checkpoint into a model directory.

        Args:
            source: a folder, or a hub id (`owner/name`), which needs the extra `convert`.
            destination: the directory to make; it must not exist yet.
            progress: show a bar on standard error.

        Returns:
            The content of the new `model.json`.

        Raises:
            R2T2Error: the source is damaged or does not fit, all offenders named; or the destination cannot be
                written. Nothing is left at the destination then.
        """
        folder = fetch(source, self.folders)
        config = self.config_from(folder)
        checkpoint = open_checkpoint(folder, self.folders)
        report = self.check(config, checkpoint)
        return write_model_directory(
            destination,
            described={"port": self.port, "config": dataclasses.asdict(config), "source": source},
            parameters=stored(self.leaves(config), tensors_of(checkpoint)),
            checkpoint=checkpoint,
            tied=report.tied,
            report=report.summary(),
            tokenizer=self.tokenizer(folder),
            progress=progress,
        )

    def check(self, config: Any, checkpoint: Checkpoint) -> Report:
        """That the mapping meets this checkpoint; see `matching.check`."""
        leaves, abstract = self.leaves(config), self.abstract_params(config)
        return check(leaves, tensors_of(checkpoint), abstract, self.ignored(config), self.tied(config))


def tensors_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Names, shapes and dtypes of a checkpoint."""
    return {name: Tensor(entry.shape, str(entry.dtype)) for name, entry in checkpoint.items()}
