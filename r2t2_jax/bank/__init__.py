"""The reference bank: samples the model answers correctly, with its routing weights."""

from r2t2_jax.bank.reference_bank import ReferenceBank

__all__ = ["ReferenceBank"]
