"""`bank.json`: what a bank directory holds and what computed it.

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.bank.records import StoredLeaf
from r2t2_jax.contract import Embedder, Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.folder import RUN

WHOLE = 1 << 24  # bytes: 16 MiB, read in about 10 ms
BLOCK = 1 << 12
BLOCKS = 256


@dataclass(frozen=True)
class FileDigest:
    """What `bank.json` says of one file."""

    bytes: int
    quick: str
    sha256: str


def digest(path: Path) -> FileDigest:
    """Size and both digests of a file."""
    return FileDigest(path.stat().st_size, quick_digest(path), full_digest(path))


def full_digest(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_digest(path: Path) -> str:
    """SHA-256 of the size and of all bytes, or of blocks spread over a large file."""
    size = path.stat().st_size
    found = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= WHOLE:
            found.update(file.read())
        else:
            last = size - BLOCK
            for i in range(BLOCKS + 1):
                found.update(os.pread(file.fileno(), BLOCK, last * i // BLOCKS))
    return found.hexdigest()


def check_file(path: Path, expected: FileDigest, whole: bool = False) -> None:
    """Refuse a file that is not what was written.

    Args:
        path: the file.
        expected: what was noted when it was written.
        whole: read all of it.

    Raises:
        R2T2Error: the file is missing, has another size, or holds other bytes.
    """
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise R2T2Error(
                f"{path} has {size:,} bytes, {expected.bytes:,} were written: it is truncated or another file"
            )
        same = full_digest(path) == expected.sha256 if whole else quick_digest(path) == expected.quick
    except FileNotFoundError:
        raise R2T2Error(f"{path} is missing: this is no complete bank; build or import it again") from None
    except OSError as error:
        raise R2T2Error(f"cannot read {path}: {error.strerror}") from error
    if not same:
        raise R2T2Error(
            f"{path} is damaged: its checksum is not the one noted when it was written; build the bank again"
        )


@dataclass(frozen=True)
class Fingerprints:
    """What computed a bank: the model, the question embedder, and how samples were prepared for the model."""

    model: str = ""
    embedder: str = ""
    processing: str = ""

    def check(self, where: str, expected: Fingerprints) -> None:
        """Refuse a bank that something else computed; an empty expectation is not checked.

        Raises:
            R2T2Error: names both.
        """
        for name, own in asdict(self).items():
            wanted = getattr(expected, name)
            if wanted and own != wanted:
                raise R2T2Error(f"{where} was made with {name} {own!r}, this is {name} {wanted!r}: build it again")


def fingerprints_of(port: Port, embedder: Embedder | None = None) -> Fingerprints:
    """Those of a bank that `port` computes, with its own question embedder or another one."""
    return Fingerprints(port.fingerprint, (embedder or port.embedder).fingerprint, processing_fingerprint(port))


def processing_fingerprint(port: Port) -> str:
    """How a port prepares samples: its processor's own `fingerprint` where it has one, else the processor's name.

    The length of an answer belongs to it, since it decides what counts as answered correctly.
    """
    kind = type(port.processor)
    own = getattr(port.processor, "fingerprint", f"{kind.__module__}.{kind.__qualname__}")
    return f"{own}/{port.max_new_tokens}"


def image_digest(image: np.ndarray) -> str:
    """SHA-256 of an image's pixels and shape: equal for equal pictures, however they were encoded."""
    pixels = np.ascontiguousarray(image)
    return hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


MANIFEST, RECORDS, EMBEDDINGS, ROUTING = "bank.json", "records.parquet", "embeddings.npy", "routing.npy"
STORED = ("features", "answers")  # what may be stored beside
SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Where samples came from, so that their images can be found again: the arguments of `load_dataset`.

    `images` is the image folder of a `.jsonl` file, where it is not the file's own.
    """

    name: str
    split: str = ""
    n: int | None = None
    seed: int = 0
    images: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of `bank.json`. `stored` has the leaves of features and answers, where these were stored."""

    fingerprints: Fingerprints
    rows: int
    correct: int
    embedding_size: int
    routing_shape: tuple[int, int]
    files: Mapping[str, FileDigest] = field(default_factory=dict)
    spec: RoutingSpec | None = None
    sources: tuple[Source, ...] = ()
    metric: str = ""
    stored: Mapping[str, Sequence[StoredLeaf]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write `bank.json` with a checksum of its own."""
        content = {"schema": SCHEMA} | asdict(self)
        content["checksum"] = _checksum(content)
        text = json.dumps(content, indent=2, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `bank.json`.

    Raises:
        R2T2Error: there is none, it is damaged, or of another schema version.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema, checksum = content.pop("schema"), content.pop("checksum")
    except FileNotFoundError:
        if (folder / RUN).exists():
            command = f"r2t2 bank build --config {folder / RUN} --out {folder}"
            raise R2T2Error(f"{folder} is an unfinished bank; resume with: {command}") from None
        raise R2T2Error(f"{folder} is no bank: it has no {MANIFEST}; make one with `r2t2 bank build`") from None
    except OSError as error:
        raise R2T2Error(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise R2T2Error(f"{path} is damaged ({error}); build the bank again") from error
    if schema != SCHEMA:
        raise R2T2Error(f"{path} has schema version {schema}, this program reads {SCHEMA}: build the bank again")
    if checksum != _checksum({"schema": schema} | content):
        raise R2T2Error(f"{path} is damaged or was edited: its checksum does not fit its contents")
    spec = content.pop("spec")
    return Manifest(
        fingerprints=Fingerprints(**content.pop("fingerprints")),
        routing_shape=tuple(content.pop("routing_shape")),
        files={name: FileDigest(**entry) for name, entry in content.pop("files").items()},
        spec=None if spec is None else _spec(spec),
        sources=tuple(Source(**source) for source in content.pop("sources")),
        stored={name: [StoredLeaf(**leaf) for leaf in leaves] for name, leaves in content.pop("stored").items()},
        **content,
    )


def _spec(entry: Mapping[str, Any]) -> RoutingSpec:
    layers = entry["layers"]
    return RoutingSpec(
        experts=tuple(entry["experts"]),
        layers=layers if isinstance(layers, int) else tuple(layers),
        groups=tuple(tuple(group) for group in entry["groups"]),
        support=tuple(tuple(row) for row in entry["support"]),
    )


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the canonical JSON, so that another layout of the same contents is no damage."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
