"""Datasets by name."""

import pytest

from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(R2T2Error, match=r"unknown dataset 'imagenet'; known: .*pocket"):
        load_dataset("imagenet")
