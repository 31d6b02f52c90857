"""The protocol of auxiliary models, and errors for packages and weights that are missing."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from ports.moai.auxiliary.record import AuxRecord
from r2t2_jax.errors import R2T2Error, missing_extra


class Provider(Protocol):
    """Adds its part to a record; `fingerprint` changes whenever its outputs may change."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, image: UInt8[np.ndarray, "height width 3"], record: AuxRecord) -> AuxRecord:
        """The record with this provider's part added and the other parts unchanged."""
        ...


def require(module: str, purpose: str) -> Any:
    """A module of the extra `aux`, imported; the error names `purpose`.

    Raises:
        R2T2Error: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing_extra(purpose, f"{module} ({error})", "aux") from error


def package_version(name: str) -> str:
    """The installed version of a package; `unknown` if it has none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def load_pretrained(cls: Any, name: str, purpose: str) -> Any:
    """`cls.from_pretrained(name)`; `purpose` is named in the error.

    Raises:
        R2T2Error: the weights are neither stored nor can they be downloaded.
    """
    try:
        return cls.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise R2T2Error(f"{purpose}: {name} cannot be loaded ({reason})") from error
