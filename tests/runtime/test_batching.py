"""Mapping samples one by one or in chunks: the same results, independent of each other."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.runtime.batching import compute_ahead, map_in_chunks, map_parts, pad_to_multiple


def square(sample):
    number, vector = sample
    return {"square": number**2, "sum": vector.sum(), "nothing": vector[:0]}


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("vmap_size", [1, 2, 3, 8])
def test_every_sample_has_its_own_result(count, vmap_size):
    numbers = jnp.arange(count) + 1.0
    result = map_in_chunks(square, (numbers, jnp.outer(numbers, jnp.ones(3))), vmap_size)
    np.testing.assert_array_equal(result["square"], (np.arange(count) + 1.0) ** 2)
    np.testing.assert_array_equal(result["sum"], 3 * (np.arange(count) + 1.0))
    assert result["nothing"].shape == (count, 0)


def widths(vmap_size, count=7):
    """How many samples' products are computed at a time."""
    matrix = jnp.eye(4)
    program = jax.make_jaxpr(lambda rows: map_in_chunks(lambda row: matrix @ row, rows, vmap_size))(
        jnp.ones((count, 4))
    )
    result = [eqn.outvars[0].aval for eqn in _equations(program.jaxpr) if eqn.primitive.name == "dot_general"]
    return {product.size // 4 for product in result}


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)


def test_vmap_size_samples_are_computed_together():
    assert widths(1) == {1}
    assert widths(3) == {3}  # the last ones too: one chunk shape, one program
    assert widths(100) == {7}


def test_padding_repeats_the_first_sample():
    np.testing.assert_array_equal(pad_to_multiple(jnp.arange(5), 3), [0, 1, 2, 3, 4, 0])
    keys = jax.random.split(jax.random.key(0), 3)
    filled = pad_to_multiple({"keys": keys, "rows": jnp.eye(3)}, 2)
    assert filled["keys"].shape == (4,)
    np.testing.assert_array_equal(filled["rows"][3], [1.0, 0.0, 0.0])
    assert pad_to_multiple(keys, 3) is keys


@pytest.mark.parametrize(("count", "parts", "size"), [(4, 2, 2), (5, 2, 3), (3, 2, 3), (7, 3, 3), (6, 1, 6)])
def test_parts_have_one_size_and_every_sample_its_own_result(count, parts, size):
    sizes = []

    def function(samples):
        sizes.append(len(samples["x"]))
        return {"square": samples["x"] ** 2}

    result = map_parts(function, {"x": jnp.arange(count)}, parts)
    np.testing.assert_array_equal(result["square"], np.arange(count) ** 2)
    assert set(sizes) == {size}


def test_the_first_item_is_computed_alone_and_results_are_in_order():
    started = []

    def work(item):
        started.append(item)
        return -item

    results = compute_ahead(work, range(5), workers=2)
    assert next(results) == 0
    assert started == [0]
    assert list(results) == [-1, -2, -3, -4]
    assert list(compute_ahead(work, [], workers=2)) == []
