"""Ports by name."""

import dataclasses
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import r2t2_jax
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import check_methods
from r2t2_jax.errors import R2T2Error
from r2t2_jax.plugins import PORTS, import_entry, load
from tests.toy_port import toy


@pytest.mark.parametrize("name", ["poket", "poket:narrow", "r2t2_jax.plugins:port", "no.such.module:port"])
def test_an_unknown_port_lists_the_known_ones(name: str) -> None:
    with pytest.raises(R2T2Error, match=f"unknown port '{name}'.*known: .*pocket"):
        load(name)


def test_an_object_that_is_not_a_port_is_refused() -> None:
    with pytest.raises(R2T2Error, match=r"gives an object of type str, not a r2t2_jax\.contract\.Port"):
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


TOY = "from tests.toy_port import toy\nPORT = toy()\n"
MODULE = TOY + (
    "def plain():\n    return PORT\n"
    "def of_variant(variant):\n    return dataclasses.replace(PORT, name=f'toy:{variant}')\n"
    "def optional(variant=None):\n    return dataclasses.replace(PORT, name=f'toy:{variant}')\n"
    "def two(first, second):\n    return PORT\n"
    "def broken():\n    return 1 / 0\n"
    "def broken_for(variant):\n    return 1 / 0\n"
    "import dataclasses\n"
)


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module in the current folder, which is not on the path."""
    (tmp_path / "own_port_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield "own_port_module"
    sys.modules.pop("own_port_module", None)


@pytest.mark.parametrize(
    ("attribute", "name"),
    [
        ("PORT", "toy"),
        ("plain", "toy"),
        ("of_variant", "toy:None"),
        ("of_variant:small", "toy:small"),
        ("optional", "toy:None"),
        ("optional:small", "toy:small"),
    ],
)
def test_a_port_is_an_object_or_a_function_in_the_current_folder(own_module: str, attribute: str, name: str) -> None:
    assert load(f"{own_module}:{attribute}").name == name


@pytest.mark.parametrize(
    ("attribute", "cause"),
    [
        ("nothing", r"unknown port 'own_port_module:nothing'.* are looked up in "),
        ("two", r"is a function of \(first, second\); a port is a Port, a function without"),
        ("PORT:small", "has a variant, and Port.* is no function of one"),
        ("plain:small", "has a variant, and the function takes none"),
        ("broken", r"'own_port_module:broken' fails, called with no argument \(ZeroDivisionError: division by zero\)"),
        ("broken_for:small", r"fails, called with \('small',\) \(ZeroDivisionError"),
    ],
)
def test_an_attribute_that_gives_no_port_is_refused(own_module: str, attribute: str, cause: str) -> None:
    with pytest.raises(R2T2Error, match=cause):
        load(f"{own_module}:{attribute}")


@pytest.mark.parametrize("module", ["./own_port_module", "own_port_module.py", "ports\\own_port_module.py"])
def test_a_module_that_is_given_as_a_path_is_named(module: str) -> None:
    with pytest.raises(R2T2Error, match=r"is a path, and a port is named by its module; .* write own_port_module:load"):
        load(f"{module}:load")


def test_a_function_in_place_of_a_port_is_refused() -> None:
    with pytest.raises(R2T2Error, match=r"port is of type builtin_function.*; give a Port, such as r2t2_jax.load"):
        r2t2_jax.answer(len, None, "what ?")


def test_an_import_that_a_module_lacks_is_named(own_module: str, tmp_path: Path) -> None:
    (tmp_path / "own_port_module.py").write_text("import no_such_library\n")
    with pytest.raises(R2T2Error, match=r"cannot import own_port_module .*No module named 'no_such_library'"):
        load(f"{own_module}:port")


class Incomplete:
    """A model with two methods of the contract."""

    spec = toy().model.spec

    def route(self) -> None: ...

    def answer_loss(self) -> None: ...


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"model": Incomplete()}, r"\(Incomplete\) has no method encode, generate, answer_logprobs, as_answer"),
        ({"processor": object()}, r"the processor of port 'toy' \(object\) has no method prepare, answer_ids, decode"),
        ({"embedder": object()}, "the embedder of port 'toy' .* has no method embed"),
        ({"fingerprint": ""}, "fingerprint of port 'toy' is ''"),
        ({"max_new_tokens": 0}, "max_new_tokens of port 'toy' is 0"),
    ],
)
def test_missing_methods_are_named(change: dict[str, Any], cause: str) -> None:
    with pytest.raises(R2T2Error, match=cause):
        check_methods(dataclasses.replace(toy(), **change))


@pytest.fixture
def hidden_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, before one with the package `hidden_package` and its module `inner`."""
    (tmp_path / "installed" / "hidden_package").mkdir(parents=True)
    (tmp_path / "installed" / "hidden_package" / "__init__.py").touch()
    (tmp_path / "installed" / "hidden_package" / "inner.py").write_text("def load(variant): return variant\n")
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setattr(sys, "path", [str(own), str(tmp_path / "installed"), *sys.path])
    yield own
    for name in [name for name in sys.modules if name.partition(".")[0] == "hidden_package"]:
        del sys.modules[name]


ENTRY = EntryPoint("inner", "hidden_package.inner:load", PORTS)


@pytest.mark.parametrize("kind", ["package", "file"])
def test_a_folder_of_the_users_with_the_name_of_a_package_hides_no_port(hidden_package: Path, kind: str) -> None:
    if kind == "package":
        (hidden_package / "hidden_package").mkdir()
        (hidden_package / "hidden_package" / "__init__.py").touch()
        (hidden_package / "hidden_package" / "mine.py").touch()
    else:
        (hidden_package / "hidden_package.py").write_text("mine = 1\n")
    for _ in range(2):  # before and after the package of the user is extended
        exec("from hidden_package import mine", {})
        assert import_entry(ENTRY)("small") == "small"


def test_a_file_of_the_users_with_the_name_of_a_port_is_named(hidden_package: Path) -> None:
    (hidden_package / "hidden_package").mkdir()
    (hidden_package / "hidden_package" / "__init__.py").touch()
    (hidden_package / "hidden_package" / "inner").mkdir()
    (hidden_package / "hidden_package" / "inner" / "__init__.py").write_text("import hidden_package.inner.lost\n")
    with pytest.raises(R2T2Error, match=r"cannot import hidden_package.inner:load .*rename it") as error:
        import_entry(ENTRY)
    assert str(hidden_package) in str(error.value)


def test_a_model_and_a_bank_are_named_or_are_folders(tmp_path: Path) -> None:
    for name in (None, 3, ["pocket:narrow"]):
        with pytest.raises(
            R2T2Error, match="a model is given by its name, such as 'pocket:narrow', or its folder, not"
        ):
            load(name)  # type: ignore[arg-type]
        with pytest.raises(R2T2Error, match="a bank is opened by its folder, not"):
            ReferenceBank.open(name)  # type: ignore[arg-type]
    with pytest.raises(R2T2Error, match=str(tmp_path)):
        load(tmp_path)


def test_a_port_prints_in_one_line() -> None:
    assert repr(toy()) == "Port('toy', 2 x 3 routing weights, fingerprint='toy-1')"
