"""Imports and dependencies of the package."""

import inspect
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import r2t2_jax

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


def test_the_version_is_that_of_the_package() -> None:
    assert r2t2_jax.__version__ == metadata.version("r2t2-jax")
    assert "__version__" in dir(r2t2_jax)


def test_public_functions_name_their_arguments() -> None:
    functions = [getattr(r2t2_jax, name) for name in r2t2_jax.__all__]
    for function in filter(inspect.isfunction, functions):
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}, function


def test_both_packages_are_typed() -> None:
    assert (ROOT / "r2t2_jax" / "py.typed").is_file() and (ROOT / "ports" / "py.typed").is_file()


def pins(name: str) -> dict[str, str]:
    """The versions of a constraints file by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def requirements(*extras: str) -> list[Requirement]:
    """The requirements of the package and of extras that apply to CI's machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    machine = {"sys_platform": "linux", "platform_machine": "x86_64", "python_version": "3.11"}
    return [each for each in map(Requirement, lines) if each.marker is None or each.marker.evaluate(machine)]


def test_the_versions_of_ci_satisfy_every_requirement() -> None:
    versions = pins("constraints.txt")
    for requirement in requirements("test", "ray", "docs", "notebooks"):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(versions[name]), f"{requirement}: {versions[name]}"


def test_the_lowest_versions_are_the_lower_bounds_of_the_requirements() -> None:
    versions = pins("constraints-lowest.txt")
    for requirement in requirements("test"):
        name = canonicalize_name(requirement.name)
        lower = [Version(each.version) for each in requirement.specifier if each.operator in (">=", "==")]
        assert lower == [Version(versions[name])], f"{requirement}: change {name} in constraints-lowest.txt"
