"""A run of `r2t2 eval` on the toy port, made once for every test that reads it."""

from pathlib import Path

import pytest

from r2t2_jax.cli.main import main
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
