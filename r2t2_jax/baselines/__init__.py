"""Rivals that return answers rather than a routing, one file each."""

from r2t2_jax.baselines.atlas_ensemble import AtlasEnsemble

__all__ = ["AtlasEnsemble"]
