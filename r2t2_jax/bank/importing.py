"""Imports the authors' released reference file (tianyi-lab/R2-T2, `reference.json`) as a bank.

The file is a JSON list of {id, question, image_path, model_answer, ground_truth, is_correct, weights: {expert: weight}}
without images and without the model's name. The weights are one vector for all layers; groups of experts, by the first
part of their names (`img_aux`, `img_lang`, ...), sum to one each.

Axis letters: N references, L = 1 layer, E experts, M embedding size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.bank.manifest import AS_RECORDED, MANIFEST, Fingerprints, Source, read_manifest
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.bank.storage import check_replaceable
from r2t2_jax.contract import Embedder
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.typed_files import decode_text, read_bytes
from r2t2_jax.runtime.typed_json import parse_json

FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": (int, str),
    "question": str,
    "image_path": str,
    "model_answer": str,
    "ground_truth": str,
    "is_correct": bool,
    "weights": dict,
}
SUM_TOLERANCE = 1e-3
UNNAMED = "unnamed, of "  # start of the model fingerprint of an imported bank


def check_import_target(folder: Path) -> None:
    """Check, before any work is done, that an imported bank may be written to a folder.

    Raises:
        R2T2Error: the folder holds something else than an imported bank.
    """
    check_replaceable(folder)
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    if manifest.metric != AS_RECORDED or not manifest.fingerprints.model.startswith(UNNAMED):
        raise R2T2Error(f"{folder} holds a bank of {manifest.fingerprints.model}, not an import; choose another folder")


def import_bank(path: Path, embedder: Embedder) -> ReferenceBank:
    """A bank of all references of a file, with embeddings of their questions.

    Raises:
        R2T2Error: the file cannot be read, or an entry is malformed (named by its index and id).
    """
    content = read_bytes(path)
    try:
        entries = parse_json(decode_text(content, str(path)), str(path)).content
    except R2T2Error as error:
        raise R2T2Error(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise R2T2Error(f"{path} must be a non-empty list of references; it is a {type(entries).__name__}")
    for number, entry in enumerate(entries):
        _check(f"{path}, entry {number}", entry, entries[0])
    names = [str(entry["id"]) for entry in entries]
    if len(set(names)) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise R2T2Error(f"{path}: id {repeated!r} occurs twice")
    experts = tuple(entries[0]["weights"])
    routing = np.array([[[entry["weights"][name] for name in experts]] for entry in entries], np.float32)  # [N, 1, E]
    right = np.array([entry["is_correct"] for entry in entries])
    digest = hashlib.sha256(content).hexdigest()[:8]
    return ReferenceBank(
        features=None,
        answers=None,
        routing=routing,
        embeddings=embedder.embed([entry["question"] for entry in entries]),
        records=[_record(entry, path.name) for entry in entries],
        model_fingerprint=f"{UNNAMED}{path.name}@{digest}",
        embedder_fingerprint=embedder.fingerprint,
        processing_fingerprint=Fingerprints().processing,
        correct=None if right.all() else right,
        spec=RoutingSpec(experts, 1, _groups(str(path), experts, routing[:, 0])),
        sources=(Source(path.name),),
        metric=AS_RECORDED,
    )


def _check(where: str, entry: Any, first: Mapping[str, Any]) -> None:
    if not isinstance(entry, dict):
        raise R2T2Error(f"{where}: expected an object, got {type(entry).__name__}")
    for name, kind in FIELDS.items():
        if name not in entry:
            raise R2T2Error(f"{where}: {name!r} is missing")
        if not isinstance(entry[name], kind) or (name == "id" and isinstance(entry[name], bool)):
            raise R2T2Error(f"{where}: {name!r} must not be {entry[name]!r}")
    where = f"{where} (id {entry['id']!r})"
    if not entry["question"].strip():
        raise R2T2Error(f"{where}: the question is empty")
    if set(entry["weights"]) != set(first["weights"]) or not entry["weights"]:
        raise R2T2Error(f"{where}: weights name {sorted(entry['weights'])}, the first entry {sorted(first['weights'])}")
    for expert, weight in entry["weights"].items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1 + SUM_TOLERANCE:
            raise R2T2Error(f"{where}: the weight of {expert!r} is {weight!r}, not a number from 0 to 1")


def _record(entry: Mapping[str, Any], source: str) -> dict[str, Any]:
    return {
        "id": str(entry["id"]),
        "source": source,
        "question": entry["question"],
        "style": "plain",
        "answer": entry["ground_truth"],
        "answers": [entry["ground_truth"]],
        "image": entry["image_path"],
        "prediction": entry["model_answer"],
        "score": float(entry["is_correct"]),
    }


def _groups(path: str, experts: Sequence[str], routing: Float[np.ndarray, "N E"]) -> tuple[tuple[int, ...], ...]:
    """Groups of experts by the first part of their names if the weights of each sum to one; else a single group.

    Raises:
        R2T2Error: the weights of an entry are all zero, or sum to more than the number of groups.
    """
    by_name: dict[str, list[int]] = {}
    for index, name in enumerate(experts):
        by_name.setdefault(name.split("_")[0], []).append(index)
    groups = tuple(tuple(indices) for indices in by_name.values())
    totals = routing.sum(axis=1)
    most = len(groups) if len(groups) < len(experts) else 1  # names without a common part form no groups
    wrong = np.flatnonzero((totals <= 0) | (totals > most + SUM_TOLERANCE))
    if len(wrong):
        raise R2T2Error(
            f"{path}, entry {wrong[0]}: the weights sum to {totals[wrong[0]]:.4g}, not to one in each group"
        )
    sums = np.stack([routing[:, list(group)].sum(axis=1) for group in groups])
    return groups if np.abs(sums - 1).max() <= SUM_TOLERANCE else ()
