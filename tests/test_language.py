"""Code and prose use the field's terms and American spelling; no class name stands for two things."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("r2t2_jax", "ports", "tests", "benchmarks", "docs", "examples")
SUFFIXES = {".py", ".md", ".html", ".toml", ".css"}

# Words with a plain equivalent: only, next to, again, otherwise, reports, everyone who, no one, per sample.
WORDS = re.compile(
    r"\b(abreast|anew|anybody|beside|dearer|dearest|foretell\w*|nobody|somebody|told|tells|whatever|whoever|whosoever)\b",
    re.I,
)
BRITISH = re.compile(
    r"\b(behaviour\w*|catalogue\w*|centre[ds]?|colour\w*|favour\w*|grey\w*|honour\w*|labell(?:ed|ing)|licence[sd]?|"
    r"modell(?:ed|ing)|neighbour\w*|\w*(?:normal|optim|initial|summar|minim|maxim|general|quant|token|vector|serial|"
    r"real|recogn|organ|visual|special|verbal|regular)is(?:e[sdr]?|ing|ation\w*))\b",
    re.I,
)
IDENTIFIERS = {"abreast", "anew", "asked", "beside", "found", "told", "whoever"}
# Files that quote other people's words or former names: scoring rules, recorded names, and this list.
QUOTING = {
    "CHANGELOG.md",
    "r2t2_jax/metrics/vqa.py",
    "tests/ports/moai/test_auxiliary.py",  # a relation of a scene graph
    "tests/ports/moai/test_verbalize_golden.py",
    "tests/test_language.py",
}


def files(suffixes: set[str]) -> list[Path]:
    inside = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]
    pages = [path for path in sorted(ROOT.iterdir()) if path.suffix in suffixes]
    return [path for path in inside + pages if "golden" not in path.parts and name_of(path) not in QUOTING]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("pattern", [WORDS, BRITISH], ids=["words", "spelling"])
def test_prose_and_identifiers_use_plain_american_english(pattern: re.Pattern[str]) -> None:
    lines = [
        f"{name_of(path)}:{number}: {match[0]}"
        for path in files(SUFFIXES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for match in pattern.finditer(line.replace("_", " "))
    ]
    assert not lines, "\n".join(lines)


def test_local_names_are_nouns() -> None:
    named = []
    for path in files({".py"}):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
            if name in IDENTIFIERS:
                named.append(f"{name_of(path)}:{getattr(node, 'lineno', '?')}: {name}")
    assert not named, "\n".join(named)


def test_no_class_name_stands_for_two_things() -> None:
    homes = defaultdict(list)
    for path in files({".py"}):
        if path.parts[len(ROOT.parts)] in ("r2t2_jax", "ports"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].append(name_of(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
