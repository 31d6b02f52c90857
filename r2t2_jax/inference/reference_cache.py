"""Keeps the collected references of ports in the user's cache, so that `r2t2 answer` collects them once.

An entry is a bank with features in `r2t2/references` of the user's cache folder. Its name is a digest of everything on
which the references depend: fingerprints of model, embedder and processor, the question set and the code that generates
it, versions, numerics and kind of device.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.manifest import fingerprints_of
from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets.registry import GROUP
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import with_shipped_atlas
from r2t2_jax.evaluation.setup import open_bank, reference_set
from r2t2_jax.plugins import find
from r2t2_jax.runs.atomic_io import is_draft, remove
from r2t2_jax.runs.fingerprint import local_devices, numerics, package_versions
from r2t2_jax.runtime.compilation_cache import user_cache
from r2t2_jax.runtime.pytrees import tree_bytes

LARGEST = 1 << 30  # bytes of features; references with more are collected in every process
ENTRIES = 4  # in the cache; older ones are removed


def own_references(port: Port, questions: Sequence[Sample]) -> ReferenceBank:
    """All references that are registered with a port, with the loss atlas that ships with it.

    They are read from the user's cache, or collected and written there. A cache that cannot be written is not used; an
    entry that is damaged is collected again.

    Args:
        port: the model.
        questions: to be answered; at least one, which has the shapes of the stored features.

    Raises:
        R2T2Error: as `open_bank`.
    """
    entry = user_cache() / "references" / references_key(port)
    if entry.is_dir():
        with suppress(R2T2Error):
            bank = open_bank(port, entry, {}, questions, keep_wrong=True, allow_leakage=True)
            os.utime(entry)  # the latest used entries are kept
            return with_shipped_atlas(bank, port)
    bank = open_bank(port, None, {}, [], keep_wrong=True)
    if tree_bytes((bank.features, bank.answers)) <= LARGEST:
        with suppress(R2T2Error, OSError):
            replace(bank, atlas=None).save(entry)  # the port ships it
            _remove_old(entry.parent)
    return bank


def references_key(port: Port) -> str:
    """A digest of everything on which the references that are registered with a port depend.

    Raises:
        R2T2Error: there are none.
    """
    name = reference_set(port)
    depends: dict[str, Any] = {
        "port": port.name,
        "fingerprints": vars(fingerprints_of(port)),
        "set": name,
        "code": _code_digest(name),
        "versions": package_versions(),
        "devices": local_devices(),
        "numerics": numerics(),
    }
    if port.beams != 1:
        depends["beams"] = port.beams
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def _code_digest(name: str) -> str:
    """A hash of the modules in the folder of the function that loads a registered set."""
    file = sys.modules[find(GROUP, name, "dataset").__module__].__file__
    digest = hashlib.sha256()
    for path in sorted(Path(file or "").parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _remove_old(folder: Path) -> None:
    """Remove all but the latest used entries."""
    entries = [path for path in folder.iterdir() if path.is_dir() and not is_draft(path.name)]
    for path in sorted(entries, key=lambda path: path.stat().st_mtime)[:-ENTRIES]:
        remove(path)
