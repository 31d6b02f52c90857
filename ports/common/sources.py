"""Where a checkpoint comes from: a folder on this machine, or a model hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from r2t2_jax.errors import R2T2Error

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
)  # fmt: skip


def fetch(source: str | Path, folders: Sequence[str] = (".",)) -> Path:
    """The folder `source`, or the local copy of the hub's model of that id.

    Of a hub's model the weights in `folders` are fetched, in one format, and every JSON and text file.

    Raises:
        R2T2Error: there is no such folder, and it cannot be had from a hub either.
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
    """The tokenizer's files in a folder, those that are there, in a fixed order."""
    return tuple(folder / name for name in TOKENIZER if (folder / name).is_file())
