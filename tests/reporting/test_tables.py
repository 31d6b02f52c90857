"""Tables fit 80 columns and say what the summary says."""

import io

import numpy as np
from rich.console import Console

from r2t2_jax.evaluation.statistics import summarize
from r2t2_jax.methods import BASELINES, STRATEGIES
from r2t2_jax.reporting.formatting import ROLES, STRATEGY_NOTES, role
from r2t2_jax.reporting.tables import family_table, strategy_table

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


def test_every_strategy_is_described() -> None:
    assert {*STRATEGIES, *BASELINES} <= STRATEGY_NOTES.keys()
    assert all(note and role(name) in ROLES for name, (_, note) in STRATEGY_NOTES.items())
