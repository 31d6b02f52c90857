"""Ports by name."""

from pathlib import Path

import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import load


@pytest.mark.parametrize("name", ["poket", "poket:narrow", "r2t2_jax.plugins:port", "no.such.module:port"])
def test_an_unknown_port_lists_the_known_ones(name: str) -> None:
    with pytest.raises(R2T2Error, match=f"unknown port '{name}'.*known: .*pocket"):
        load(name)


def test_an_object_that_is_not_a_port_is_refused() -> None:
    with pytest.raises(R2T2Error, match=r"gives a str, not a r2t2_jax\.contract\.Port"):
        load("r2t2_jax.plugins:PORTS")


def test_a_model_directory_is_loaded_by_its_port(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"port": "pocket"}')
    with pytest.raises(R2T2Error, match=f"pocket has no variant '{tmp_path}'"):  # the path is the variant
        load(str(tmp_path))


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_folder_that_is_not_a_model_directory_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(R2T2Error, match=r"is not a model directory .*make one with r2t2 convert"):
        load(str(tmp_path))
