"""Datasets of questions about images, loaded by name."""

from r2t2_jax.datasets.registry import load_dataset

__all__ = ["load_dataset"]
