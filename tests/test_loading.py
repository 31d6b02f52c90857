"""Ports by name."""

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.loading import load


@pytest.mark.parametrize("name", ["poket", "poket:narrow", "r2t2_jax.loading:port", "no.such.module:port"])
def test_an_unknown_port_names_the_known(name: str) -> None:
    with pytest.raises(R2T2Error, match=f"unknown port '{name}'.*known: .*pocket"):
        load(name)


def test_what_is_found_must_be_a_port() -> None:
    with pytest.raises(R2T2Error, match=r"gives a str, not a r2t2_jax\.contract\.Port"):
        load("r2t2_jax.loading:GROUP")
