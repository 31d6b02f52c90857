"""Imports and dependencies of the package."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAVY = ("flax", "orbax", "matplotlib", "tensorflow_datasets", "torch", "transformers", "tensorflow", "scann")


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, r2t2_jax; sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_using_the_method_loads_nothing_heavy() -> None:
    code = (
        "import sys, r2t2_jax; [getattr(r2t2_jax, name) for name in r2t2_jax.__all__]; "
        f"sys.exit(str([name for name in {HEAVY} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_the_tests_need_no_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    assert not [name for name in wanted if name.startswith(("torch", "transformers", "tensorflow>", "tensorflow="))]


def test_the_method_imports_no_port() -> None:
    for path in (ROOT / "r2t2_jax").rglob("*.py"):
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        modules = [words[1].split(".")[0] for words in lines if len(words) > 1 and words[0] in ("import", "from")]
        assert "ports" not in modules, path
