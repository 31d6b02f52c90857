"""Tables fit 80 columns and agree with the summary."""

import io

import numpy as np
from rich.console import Console

from r2t2_jax.evaluation.statistics import summarize
from r2t2_jax.reporting.tables import csv_table, family_table, latex_table, markdown_table, strategy_table

NAMES = ["base", "kernel_regression_alpha", "shuffled_references", "task_routing"]


def printed(*tables: object) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=80, color_system=None)
    console.print(*tables)
    return [line.strip() for line in file.getvalue().splitlines()]


def test_tables_fit_eighty_columns() -> None:
    rng = np.random.default_rng(0)
    right = {name: rng.random(2000) < 0.2 + 0.2 * i for i, name in enumerate(NAMES)}
    summary = summarize(right, dict.fromkeys(NAMES, 110), ["spatial relation", "size comparison"] * 1000)
    lines = printed(
        strategy_table("narrow", summary, dict.fromkeys(NAMES, 0.01234)), family_table("narrow", summary, NAMES)
    )
    assert max(map(len, lines)) <= 78  # and a margin each side
    text = "\n".join(lines)
    assert "…" not in text  # nothing cut off
    row = next(line.split() for line in lines if line.startswith("task_routing"))
    best = summary["strategies"]["task_routing"]
    assert row[1] == f"{100 * best['accuracy']:.1f}"
    assert row[3:6] == ["100.0", str(best["wrong_to_right"]), str(best["right_to_wrong"])]
    assert row[6:] == ["110", "0.0123"]
    family = next(line.split() for line in lines if line.startswith("size comparison"))
    assert family[2] == "1000"
    assert family[-1] == f"{100 * summary['families']['size comparison']['accuracy']['task_routing']:.1f}"


def test_markdown_escapes_pipes_and_aligns_numbers_to_the_right() -> None:
    table = markdown_table(["name", "gain", "interval"], [["a|b", "+1.5", "-0.5 to +3.5"], ["c", "", "0.1 to 0.2"]])
    lines = table.splitlines()
    assert lines[:3] == ["| name | gain | interval |", "| --- | --: | --: |", r"| a\|b | +1.5 | -0.5 to +3.5 |"]
    assert markdown_table(["a", "b"], [["1", "x"]], align_right=True).splitlines()[1] == "| --- | --: |"


def test_latex_escapes_what_latex_reads_as_commands() -> None:
    table = latex_table(["name", "n"], [["50 % & more_", "1,000"], ["\\x~", "2"]])
    assert r"\begin{tabular}{lr}" in table
    assert r"50 \% \& more\_ & 1,000 \\" in table
    assert r"\textbackslash{}x\textasciitilde{} & 2 \\" in table


def test_csv_takes_its_columns_from_the_first_record() -> None:
    assert csv_table([{"a": 1, "b": 'say "x", y'}, {"a": None, "b": ""}]) == 'a,b\n1,"say ""x"", y"\n,\n'
