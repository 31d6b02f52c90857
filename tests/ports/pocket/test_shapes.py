"""The pocket model without weights has the shapes of the loaded one."""

import jax
import numpy as np
import pytest

from ports.pocket.port import load, shapes
from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load_shapes


def shape_of(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_shapes_are_those_of_the_loaded_port() -> None:
    port, shaped = load("narrow"), load_shapes("pocket:narrow")
    assert shaped.name == port.name
    assert shaped.model.spec == port.model.spec
    assert shape_of(shaped.params) == shape_of(port.params)
    inputs = port.processor.prepare(port.params, [_sample()])
    sample = jax.tree.map(lambda leaf: leaf[0], (inputs, port.processor.answer_ids(["red"])))
    features = jax.eval_shape(port.model.encode, port.params, sample[0])
    assert shape_of(shaped.features) == shape_of(features)
    assert shape_of(shaped.answer) == shape_of(sample[1])
    loss = jax.eval_shape(shaped.model.answer_loss, shaped.params, shaped.features, None, shaped.answer)
    assert loss.shape == ()


def _sample():
    return Sample("a", np.zeros((96, 96, 3), np.uint8), "what color is the circle", ("red",))


def test_other_lengths_and_variants_are_refused() -> None:
    with pytest.raises(R2T2Error, match="pads questions to 16 tokens and answers to 3"):
        shapes(None, 20, None)
    with pytest.raises(R2T2Error, match="has no variant 'wide'"):
        shapes("wide", None, None)
