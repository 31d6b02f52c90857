"""The examples of CONTRIBUTING.md run, and its lists agree with the code."""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from r2t2_jax.datasets.record import InvalidRecord, Record
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.methods import METHODS, blocks_of, method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.rivals.table import RIVAL_STRATEGIES
from tests.toy_port import make_samples, toy

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def block(marker: str) -> str:
    match = re.search(rf"<!-- {marker}[^\n]*-->\n```\w*\n(.*?)```", PAGE, re.DOTALL)
    assert match, f"CONTRIBUTING.md has no block marked {marker!r}"
    return match[1]


def test_the_example_of_a_strategy_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "sharpen"}
    exec(compile(block("strategy file"), "sharpen.py", "exec", dont_inherit=True), names)
    names |= {"RIVAL_STRATEGIES": dict(RIVAL_STRATEGIES)}
    exec(block("strategy row"), names)
    monkeypatch.setitem(METHODS, "sharpen", names["RIVAL_STRATEGIES"]["sharpen"])
    names |= {"make_samples": make_samples, "toy": toy, "collect_bank": collect_bank, "get_metric": get_metric}
    names |= {"encode_questions": encode_questions, "evaluate": evaluate, "method_of": method_of, "np": np}
    names["METRIC"] = get_metric("exact_match")
    exec(block("strategy test"), names)
    names["test_sharpening_squares_the_weights_at_half_the_temperature"]()
    blocks_of.cache_clear()


def test_the_example_of_a_dataset_runs(tmp_path: Path) -> None:
    names: dict[str, Any] = {"json": json}
    exec(compile(block("dataset file"), "riddles.py", "exec", dont_inherit=True), names)
    exec(block("dataset test"), names)
    names["test_a_record_and_a_missing_field"](tmp_path)
    records = list(names["DATASETS"][0].read(tmp_path, "test"))
    assert [type(record) for record in records] == [Record, InvalidRecord]


def test_the_examples_are_short() -> None:
    for marker in ("strategy file", "dataset file"):
        assert block(marker).count("\n") < 30


def test_the_layers_are_those_that_are_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert [line.split()[0] for line in block("layers").splitlines()] == layers


EMBEDDERS = ("minilm", "qwen2_embed", "nv_embed")
LANGUAGE_MODELS = ("olmoe", "qwen3_moe", "qwen3_vl_moe", "qwen3_5_moe")
PORTS = ("moai", "mova", "pocket", *EMBEDDERS, *LANGUAGE_MODELS)


def modules_of(port: str) -> list[Path]:
    """The files of a port's models; `pocket:sparse` is left out."""
    if port in EMBEDDERS:
        return [ROOT / "ports" / "embedders" / f"{port}.py"]
    return [ROOT / "ports" / "pocket" / "modeling.py"] if port == "pocket" else [*(ROOT / "ports" / port).rglob("*.py")]


def layers_of(port: str) -> set[str]:
    """The files of `ports/common/layers` that a port imports, directly or not."""
    files, reached = modules_of(port), set[Path]()
    while files:
        file = files.pop()
        if file not in reached:
            reached.add(file)
            names = re.findall(r"^ *from (ports\.common[\w.]+) import", file.read_text(), re.MULTILINE)
            files += [path for name in names if (path := ROOT / f"{name.replace('.', '/')}.py").is_file()]
    return {file.name for file in reached if file.parent.name == "layers"}


def test_the_table_of_layers_names_every_file_and_the_models_that_it_serves() -> None:
    section = PAGE.split("## Layers of the models")[1].split("## ")[0]
    rows = re.findall(r"^\| (`.*?) \| .* \| (.*?) \|$", section, re.MULTILINE)
    serves = {file: models for files, models in rows for file in re.findall(r"`(\w+\.py)`", files)}
    folder = ROOT / "ports" / "common" / "layers"
    assert set(serves) == {file.name for file in folder.glob("*.py")} - {"__init__.py"}
    used = {port: layers_of(port) for port in PORTS}
    groups = {
        "all but pocket": PORTS[:2] + PORTS[3:], "all language models": LANGUAGE_MODELS, "embedders": EMBEDDERS,
        "all": PORTS,
    }  # fmt: skip
    for file, text in serves.items():
        for name, members in groups.items():
            text = re.sub(rf"\b{name}\b", ", ".join(members), text)
        stated = {word for word in re.split(r"[^\w]+", text) if word in PORTS}
        assert stated == {port for port in PORTS if file in used[port]}, file


def test_no_two_ports_contain_the_same_layer() -> None:
    places: dict[str, set[str]] = {}
    for port in PORTS:
        for file in modules_of(port):
            classes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef)]
            for node in classes:
                if not any(ast.unparse(base) == "nnx.Module" for base in node.bases):
                    continue
                for method in node.body:
                    if isinstance(method, ast.FunctionDef):
                        statements = [entry for entry in method.body if not isinstance(entry, ast.Expr)]
                        places.setdefault("\n".join(map(ast.unparse, statements)), set()).add(port)
    assert {code: ports for code, ports in places.items() if len(ports) > 1} == {}


def test_the_way_of_one_question_follows_imports_to_a_port() -> None:
    steps = re.findall(r"^\d\. `([\w/.]+)`", PAGE.split("## The way of one question")[1].split("## ")[0], re.MULTILINE)
    assert 5 <= len(steps) <= 9
    texts = [(ROOT / step).read_text(encoding="utf-8") for step in steps]
    for number, step in enumerate(steps[1:], start=1):
        module = step.removesuffix(".py").replace("/", ".")
        # A port is found through an entry point.
        assert step.startswith("ports/") or any(module in text for text in texts[:number]), f"nothing imports {step}"
    assert steps[-1].startswith("ports/")
    assert "def generate(" in texts[-1]
