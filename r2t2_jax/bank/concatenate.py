"""Concatenates reference banks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from r2t2_jax.bank.records import ConcatenatedSamples
from r2t2_jax.bank.reference_bank import ReferenceBank
from r2t2_jax.errors import R2T2Error


def concatenate(banks: Sequence[ReferenceBank]) -> ReferenceBank:
    """The references of several banks in one.

    Raises:
        R2T2Error: there is no bank, or model, embedder, processing, routing or metric differ (both are named).
    """
    if not banks:
        raise R2T2Error("there is no bank to concatenate")
    first = banks[0]
    for bank in banks[1:]:
        bank.fingerprints.check("a bank to be added", first.fingerprints)
        for name in ("spec", "metric"):
            ours, theirs = getattr(first, name), getattr(bank, name)
            if theirs != ours:
                raise R2T2Error(f"banks with {name} {ours} and {theirs} cannot be concatenated")
    in_memory = all(bank.features is not None for bank in banks)
    arrays = [(bank.features, bank.answers) if in_memory else (None, None) for bank in banks]
    features, answers = jax.tree.map(lambda *leaves: np.concatenate(leaves), *arrays)
    right = np.concatenate([bank.right for bank in banks])
    return replace(
        first,
        features=features,
        answers=answers,
        routing=np.concatenate([bank.routing for bank in banks]),
        embeddings=np.concatenate([bank.embeddings for bank in banks]),
        records=[record for bank in banks for record in bank.records],
        correct=None if right.all() else right,
        reader=None if in_memory else _concatenated_readers(banks),
        sources=tuple(dict.fromkeys(source for bank in banks for source in bank.sources)),
        folder=None,
        origin=None,
    )


def _concatenated_readers(banks: Sequence[ReferenceBank]) -> ConcatenatedSamples | None:
    if any(bank.features is None and bank.reader is None for bank in banks):
        return None
    return ConcatenatedSamples([bank.samples for bank in banks], np.cumsum([0, *map(len, banks[:-1])]))
