"""What an auxiliary model promises, and how one that is not installed is told."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.record import AuxRecord
from r2t2_jax.errors import R2T2Error


class Provider(Protocol):
    """Fills in its part of a record; `fingerprint` changes whenever what it finds may."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with this provider's part, the others' untouched."""
        ...


def needed(module: str, what: str) -> Any:
    """A module of the extra `aux`.

    Raises:
        R2T2Error: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise R2T2Error(f"{what} needs {module} ({error}): install r2t2-jax[aux]") from error


def pretrained(kind: Any, name: str, what: str) -> Any:
    """`kind.from_pretrained(name)`.

    Raises:
        R2T2Error: the weights can neither be found nor be fetched.
    """
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{what}: {name} cannot be loaded ({reason})") from error
