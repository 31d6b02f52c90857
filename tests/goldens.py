"""Numbers recorded from other implementations, from all folders.

`tests/golden/**` comes with the repository; the environment variable R2T2_EXTRA_GOLDENS names further folders, searched
the same way. A test's id is `parent folder/folder/file`. Files that a golden names are in its folder.
"""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "golden"
EXTRA = [Path(name) for name in os.environ.get("R2T2_EXTRA_GOLDENS", "").split(os.pathsep) if name]


def find_goldens(pattern: str) -> list[pytest.param]:
    """One parameter a file whose name matches the glob `pattern`, for `pytest.mark.parametrize`."""
    folders = [HERE, *EXTRA]
    paths = dict.fromkeys(path.resolve() for folder in folders for path in sorted(folder.rglob(pattern)))
    return [pytest.param(path, id="/".join(path.parts[-3:])) for path in paths]
