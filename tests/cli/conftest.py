"""A run of `r2t2 eval` on the toy port, made once for every test that reads it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.compilation import FOLDER
from tests.evaluation.toy_files import arguments, write_all


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two benchmarks and a bank."""
    return write_all(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session")
def whole(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run; tests only read it."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(files, out)) == 0
    return out


@pytest.fixture(scope="session", autouse=True)
def compiled_programs_stay_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        if FOLDER not in os.environ:
            patch.setenv(FOLDER, str(tmp_path_factory.mktemp("compiled")))
        yield
