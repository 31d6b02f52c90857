"""What computed a bank: a model, a question embedder, and the way samples were prepared for the model."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np

from r2t2_jax.contract import Embedder, Port
from r2t2_jax.errors import R2T2Error


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
