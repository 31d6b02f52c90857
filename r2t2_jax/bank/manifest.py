"""`bank.json`: what a bank directory holds and what computed it.

Axis letters: N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from r2t2_jax.bank.digests import FileDigest
from r2t2_jax.bank.fingerprints import Fingerprints
from r2t2_jax.bank.samples import StoredLeaf
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runs.folder import RUN

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
            way = f"go on with: r2t2 bank build --config {folder / RUN} --out {folder}"
            raise R2T2Error(f"{folder} is a bank half built; {way}") from None
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
