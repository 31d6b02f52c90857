"""Datasets by name."""

import pytest

from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error


def test_an_unknown_dataset_lists_the_known_ones() -> None:
    with pytest.raises(R2T2Error, match=r"unknown dataset 'imagenet'; known: .*pocket"):
        load_dataset("imagenet")


def test_an_unknown_dataset_is_answered_with_those_that_can_be_loaded():
    with pytest.raises(
        R2T2Error, match=r"unknown dataset 'pockets'; did you mean 'pocket'\? known: pocket, .*easy_vqa"
    ):
        load_dataset("pockets")
    with pytest.raises(R2T2Error, match=r"unknown dataset 'nothing'; known: pocket, ") as error:
        load_dataset("nothing")
    assert str(error.value).count("jsonl") == 1 and str(error.value).endswith(", and .jsonl files")
