"""`bank.json`: contents of a bank directory, checksums, and fingerprints of the model that computed it.

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from r2t2_jax.bank.records import AGAIN as AGAIN
from r2t2_jax.bank.records import StoredLeaf
from r2t2_jax.contract import Embedder, Port
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.folder import RUN, read_json
from r2t2_jax.runtime.typed_files import path_below
from r2t2_jax.runtime.typed_json import open_json

WHOLE = 1 << 24  # bytes: 16 MiB, read in about 10 ms
BLOCK = 1 << 12
BLOCKS = 256


@dataclass(frozen=True)
class FileDigest:
    """Size and digests of a file, as stored in `bank.json`."""

    bytes: int
    quick: str
    sha256: str


def digest(path: Path) -> FileDigest:
    """Size, quick digest and full digest of a file."""
    return FileDigest(path.stat().st_size, quick_digest(path), full_digest(path))


def full_digest(path: Path) -> str:
    """SHA-256 of all bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quick_digest(path: Path) -> str:
    """SHA-256 of the size and of all bytes, or of blocks spread over a large file."""
    size = path.stat().st_size
    sha = hashlib.sha256(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        if size <= WHOLE:
            sha.update(file.read())
        else:
            last = size - BLOCK
            for i in range(BLOCKS + 1):
                file.seek(last * i // BLOCKS)
                sha.update(file.read(BLOCK))
    return sha.hexdigest()


def check_file(path: Path, expected: FileDigest, whole: bool = False) -> None:
    """Check that a file is the one that was written.

    Args:
        path: the file.
        expected: its size and digests when it was written.
        whole: compare the digest of all bytes.

    Raises:
        R2T2Error: the file is missing, has another size, or holds other bytes.
    """
    try:
        size = path.stat().st_size
        if size != expected.bytes:
            raise R2T2Error(
                f"{path} has {size:,} bytes, {expected.bytes:,} were written: the file is truncated or was replaced"
            )
        same = full_digest(path) == expected.sha256 if whole else quick_digest(path) == expected.quick
    except FileNotFoundError:
        raise R2T2Error(f"{path} is missing: the bank is incomplete; build or import it again") from None
    except OSError as error:
        raise R2T2Error(f"cannot read {path}: {error.strerror}") from error
    if not same:
        raise R2T2Error(f"{path} is damaged: its checksum has changed since it was written; build the bank again")


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of what computed a bank: the model, the question embedder, and the processor of samples."""

    model: str = ""
    embedder: str = ""
    processing: str = ""

    def check(self, where: str, expected: Fingerprints) -> None:
        """Check the fingerprints of a bank; empty expected fingerprints are not checked.

        Raises:
            R2T2Error: a fingerprint differs; the message names both.
        """
        for name, own in asdict(self).items():
            other = getattr(expected, name)
            if other and own != other:
                raise R2T2Error(f"{where} was made with {name} {own!r}, this is {name} {other!r}: build it again")


def fingerprints_of(port: Port, embedder: Embedder | None = None) -> Fingerprints:
    """The fingerprints of a bank computed by a port, with its own question embedder or another one."""
    return Fingerprints(port.fingerprint, (embedder or port.embedder).fingerprint, processing_fingerprint(port))


def processing_fingerprint(port: Port) -> str:
    """The fingerprint of how a port prepares samples: its processor's `fingerprint`, or the processor's class name.

    It includes the maximal length of answers, on which correctness depends.
    """
    kind = type(port.processor)
    own = getattr(port.processor, "fingerprint", f"{kind.__module__}.{kind.__qualname__}")
    return f"{own}/{port.max_new_tokens}"


def image_digest(image: np.ndarray | None) -> str:
    """SHA-256 of an image's pixels and shape, independent of its file format; empty without an image."""
    if image is None:
        return ""
    pixels = np.ascontiguousarray(image)
    digest = hashlib.sha256(f"{pixels.dtype}{pixels.shape}".encode())
    digest.update(pixels.data)
    return digest.hexdigest()


MANIFEST, RECORDS, EMBEDDINGS, ROUTING = "bank.json", "records.parquet", "embeddings.npy", "routing.npy"
STORED = ("features", "answers")  # optional contents
SCHEMA = 1
AS_RECORDED = "as recorded"  # the metric of an imported bank


@dataclass(frozen=True)
class Source:
    """The source of samples, from which their images can be loaded again: the arguments of `load_dataset`.

    `images` is the image folder of a `.jsonl` file, if it is not the folder of the file.
    """

    name: str
    split: str = ""
    n: int | None = None
    seed: int = 0
    images: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of `bank.json`. `stored` has the leaves of features and answers, if they are stored."""

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
        """Write `bank.json`, including a checksum of its contents."""
        content = {"schema": SCHEMA} | asdict(self)
        content["checksum"] = _checksum(content)
        text = json.dumps(content, indent=2, allow_nan=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8", newline="\n")


def read_manifest(folder: Path) -> Manifest:
    """Read and check `bank.json`.

    Raises:
        R2T2Error: the file is missing, damaged, or of another schema version, or its values cannot be.
    """
    path = folder / MANIFEST
    if not path.exists():
        if (folder / RUN).exists():
            if (run := read_json(folder / RUN).get("command")) != "bank build":
                raise R2T2Error(f"{folder} holds a run of r2t2 {run}, not a bank; build one with `r2t2 bank build`")
            command = f"r2t2 bank build --config {folder / RUN} --out {folder}"
            raise R2T2Error(f"{folder} is an unfinished bank; resume with: {command}")
        raise R2T2Error(f"{folder} is not a bank: it has no {MANIFEST}; build one with `r2t2 bank build`")
    try:
        document = open_json(path, AGAIN)
        schema, checksum = document.member("schema"), document.member("checksum")
    except R2T2Error as error:
        raise R2T2Error(f"{path} is damaged ({error})") from error
    if schema != SCHEMA or isinstance(schema, bool):
        raise R2T2Error(f"{path} has schema version {schema}, this program reads {SCHEMA}: build the bank again")
    if checksum != _checksum({key: value for key, value in document.content.items() if key != "checksum"}):
        raise R2T2Error(f"{path} is damaged or was edited: its checksum does not match its contents")
    manifest = document.as_type(Manifest, leave_out=("schema", "checksum"), required=True)
    _check_manifest(path, manifest)
    return manifest


def _check_manifest(path: Path, manifest: Manifest) -> None:
    """Refuse numbers that cannot be, or that disagree, and names of files outside the bank's folder."""
    counts = (manifest.rows, manifest.embedding_size, *manifest.routing_shape)
    if min(counts) < 1 or not 0 <= manifest.correct <= manifest.rows:
        raise R2T2Error(f"{path}: {manifest.correct} of {manifest.rows} correct rows, sizes {counts}; {AGAIN}")
    spec = manifest.spec
    if spec is not None and (spec.num_layers, spec.num_experts) != manifest.routing_shape:
        shape = (spec.num_layers, spec.num_experts)
        raise R2T2Error(f"{path}: 'routing_shape' is {manifest.routing_shape}, 'spec' has {shape}; {AGAIN}")
    if spec is not None and any(not 0 <= expert < spec.num_experts for row in spec.support for expert in row):
        raise R2T2Error(f"{path}: 'spec.support' names experts beyond {spec.num_experts}; {AGAIN}")
    leaves = [leaf for leaves in manifest.stored.values() for leaf in leaves]
    for name in (*manifest.files, *(leaf.file for leaf in leaves)):
        path_below(path.parent, name, str(path))
    if absent := {RECORDS, EMBEDDINGS, ROUTING, *(leaf.file for leaf in leaves)} - set(manifest.files):
        raise R2T2Error(f"{path}: 'files' lacks {', '.join(sorted(absent))}; {AGAIN}")


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON, independent of the layout of the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
