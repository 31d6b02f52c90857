"""The reference bank: samples a model has answered, with its routing weights; in memory and on disk."""

from r2t2_jax.bank.manifest import Fingerprints, Source
from r2t2_jax.bank.reference_bank import ReferenceBank

__all__ = ["Fingerprints", "ReferenceBank", "Source"]
