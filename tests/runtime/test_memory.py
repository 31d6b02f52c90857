"""Sizes of memory: read, written and counted."""

import jax
import jax.numpy as jnp
import pytest

from r2t2_jax.costs.memory import format_size, parse_size
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.pytrees import tree_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24 * 10**9), ("80 GiB", 80 * 2**30), ("512mb", 512 * 10**6), ("1.5kib", 1536), (" 2TB ", 2 * 10**12)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["24", "GB", "-1GB", "0GB", "24 gigs", "", "1e3GB"])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(R2T2Error, match="is no size of memory; write a number and one of KB, MB, GB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 B"), (1250, "1.25 KB"), (24 * 10**9, "24.0 GB"), (333_000_000, "333 MB")]
)
def test_sizes_are_written_with_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


def test_bytes_of_arrays_shapes_and_keys() -> None:
    tree = {"a": jnp.zeros((3, 5)), "b": jax.ShapeDtypeStruct((7,), jnp.bfloat16), "k": jax.random.key(0)}
    assert tree_bytes(tree) == 4 * 15 + 2 * 7 + 8
