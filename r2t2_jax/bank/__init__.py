"""The reference bank: samples a model has answered, with its routing weights; in memory and on disk."""

from r2t2_jax.bank.fingerprints import Fingerprints
from r2t2_jax.bank.manifest import Source
from r2t2_jax.bank.reference_bank import ReferenceBank

__all__ = ["Fingerprints", "ReferenceBank", "Source"]
