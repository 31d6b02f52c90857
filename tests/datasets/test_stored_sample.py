"""`StoredSample` decodes, copies and pickles like any other sample."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.samples import StoredSample
from tests.datasets.official import png


def test_a_stored_sample_decodes_after_copies_and_changes() -> None:
    sample = StoredSample(png("#102030"), id="1", question="?", answers=("a",))
    assert isinstance(sample, Sample) and "image" not in vars(sample)
    for copied in (sample, copy.copy(sample), pickle.loads(pickle.dumps(sample)), replace(sample, question="!")):
        assert copied.image.shape == (7, 9, 3) and copied.image.dtype == np.uint8
        assert tuple(copied.image[0, 0]) == (16, 32, 48) and copied.answers == ("a",) and copied.style == "plain"
    assert replace(sample, question="!").question == "!"
    with pytest.raises(AttributeError, match="has no attribute 'picture'"):
        sample.picture  # noqa: B018
