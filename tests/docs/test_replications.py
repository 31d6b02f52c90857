"""Every number on the pages of docs/replications/ is one of the recorded results, or one that the paper states."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reproduce.numbers import Numbers
from benchmarks.reproduce.publish import RESULTS
from r2t2_jax.reproduction.paper import paper_numbers, paper_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "replications"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
TEXTS = {name: (FOLDER / name).read_text(encoding="utf-8") for name in PAGES}
RECORDED = Numbers(RESULTS)
STATED = {  # numbers with a decimal point that the papers state in their text, and settings of theirs
    "c3po.md": {"0.93", "1.7"},
    "r2_t2.md": {"6.9", "66.1", "6.8", "5.9", "71.5", "5.7", "1.5", "28.1", "2.3"},
    "routing_distraction.md": {"3.17"},
    "steermoe.md": set(),
    "test_time_warmup.md": {"3.2", "44.8", "4.03", "49.2", "5.28", "61.2", "1.63", "1.6", "5.3", "0.75"},
}
INTERVAL = re.compile(r"[+−]?\d[\d.]*(?: %)? \([+−]?[\d.]+ to [+−]?[\d.]+\)")


def rows(page: str) -> dict[str, list[str]]:
    """The cells of all rows of tables, by the first cell."""
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {cells[0]: [cell.strip() for cell in cells[1:]] for cells in lines}


def sources(name: str) -> str:
    """The pages with numbers to which a page links, and the tables of all of the paper's experiments."""
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", TEXTS[name])
    files = {(FOLDER / link).resolve() for link in links} | set(RESULTS.glob("*.md")) | {ROOT / "docs" / "findings.md"}
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(files) if path.suffix == ".md")


def gain(name: str) -> str:
    return RECORDED.text(f"{name} gain").replace(" points", "")


def test_the_tables_of_r2_t2_are_those_of_the_paper_and_of_the_run() -> None:
    table = rows(TEXTS["r2_t2.md"])
    methods = ["base", "mode_finding", "kernel_regression", "ngd", "oracle"]
    paper = paper_rows("table2")
    for benchmark in ("MMBench", "MME-P", "SQA-IMG", "AI2D", "TextVQA", "GQA"):
        label = f"{benchmark} (points)" if benchmark == "MME-P" else benchmark
        assert table[label] == [f"{paper[f'MoAI {method}'][benchmark]:.1f}" for method in methods]
    ours = ["mode_finding", "kernel_regression_alpha", "ngd", "oracle"]
    for gate in ("narrow", "balanced"):
        for setting, words in (("own", "own settings"), ("paper", "the paper's settings")):
            expected = [gain(f"{gate}/table2/{setting}/{method}") for method in ours]
            assert table[f"`pocket:{gate}`, {words}"] == expected
    for step, shown in (("late", "82.7 %"), ("lost", "7.2 %")):
        share = RECORDED.text(f"narrow/figure5/own numbers.shares.{step}.percent")
        assert f"{float(share):.1f} %" == shown and shown in TEXTS["r2_t2.md"]


def test_the_table_of_c3po_is_that_of_the_run() -> None:
    lines = [line for line in TEXTS["c3po.md"].splitlines() if line.startswith("| `pocket:narrow`, own")]
    labels = {
        "every layer, every expert": "every layer, every expert",
        "last layer only": "last layer only",
        "three leading experts of six": "three leading experts",
        "two leading experts of six": "two leading experts",
    }
    assert len(lines) == len(labels)
    for line in lines:
        scope, value, n = line.strip("| ").split(" | ")[1:]
        assert value == gain(f"narrow/sensitivity_scope/own/{labels[scope]}")
        assert n == RECORDED.text("narrow/sensitivity_scope/own n")


def test_the_rows_of_test_time_warmup_are_those_of_the_rivals() -> None:
    table, rivals = rows(TEXTS["test_time_warmup.md"]), rows((ROOT / "docs" / "rivals.md").read_text(encoding="utf-8"))
    names = {
        "`base`": "`base`",
        "`warmup`, the paper's rate 1e-6": "`warmup`",
        "`warmup_fast`, rate 1e-3": "`warmup_fast`",
    }
    for label, name in names.items():
        assert table[label] == rivals[name][: len(table[label])]


@pytest.mark.parametrize("name", PAGES)
def test_every_number_is_a_recorded_or_a_stated_one(name: str) -> None:
    text = re.sub(r"```.*?```|\]\([^)]*\)|`[^`]*`|arXiv [\d.]+|\d{4}-\d\d-\d\d", " ", TEXTS[name], flags=re.DOTALL)
    text, known = (" ".join(each.replace(" points", "").split()) for each in (text, sources(name)))
    missing = [interval for interval in INTERVAL.findall(text) if interval not in known]
    numbers = set(re.findall(r"\d+\.\d+", text))
    recorded = (
        set(re.findall(r"\d+\.\d+", known)) | {f"{value:.1f}" for value in leaves(paper_numbers())} | STATED[name]
    )
    missing += sorted(numbers - recorded - {f"{float(number):.1f}" for number in recorded})
    assert not missing


def leaves(value: Any) -> list[float]:
    """All numbers in a value read from JSON."""
    if isinstance(value, dict | list):
        return [leaf for entry in (value.values() if isinstance(value, dict) else value) for leaf in leaves(entry)]
    return [float(value)] if isinstance(value, int | float) else []
