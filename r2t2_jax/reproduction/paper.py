"""The numbers that the paper prints (arXiv 2502.20395)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from r2t2_jax.errors import R2T2Error

NUMBERS = "paper.json"
MME, MME_SCALE = "MME-P", 20  # MME perception has 2,000 points
LEFT_OUT = ("PhysBench",)  # columns that the paper's averages leave out
COLUMN_OF = {  # the paper's columns by dataset name
    "mmbench": "MMBench",
    "mme": "MME-P",
    "scienceqa": "SQA-IMG",
    "ai2d": "AI2D",
    "textvqa": "TextVQA",
    "gqa": "GQA",
    "cvbench2d": "CVBench2D",
    "cvbench3d": "CVBench3D",
    "physbench": "PhysBench",
}


@cache
def paper_numbers() -> Mapping[str, Any]:
    """Every table of the paper, row by row."""
    return json.loads(files("r2t2_jax.reproduction").joinpath(NUMBERS).read_text(encoding="utf-8"))


def paper_rows(table: str) -> dict[str, dict[str, float]]:
    """The rows of a table by name, with benchmarks as columns; the parts of a name are joined by a space.

    Raises:
        R2T2Error: the paper has no such table.
    """
    numbers = paper_numbers()
    if table not in numbers:
        raise R2T2Error(f"the paper has no table {table!r}; known are {', '.join(numbers)}")
    return {
        " ".join(row["name"]): {key: value for key, value in row.items() if key != "name" and value is not None}
        for row in numbers[table]
    }


def paper_average(scores: Mapping[str, float]) -> float:
    """The average that the paper prints: the mean in percent over eight benchmarks, MME's points divided by 20.

    PhysBench, the ninth, is left out: only then does a row of the paper's table give the average printed in it.

    Args:
        scores: score by dataset name, the keys of `COLUMN_OF`; `physbench` may be missing.

    Raises:
        R2T2Error: a dataset is missing or unknown.
    """
    counted = {name for name, column in COLUMN_OF.items() if column not in LEFT_OUT}
    wrong = (counted - set(scores)) | (set(scores) - set(COLUMN_OF))
    if wrong:
        named = ", ".join(sorted(wrong))
        raise R2T2Error(f"the paper's average covers {', '.join(COLUMN_OF)}; missing or unknown: {named}")
    return average({COLUMN_OF[name]: value for name, value in scores.items()})


def average(row: Mapping[str, float]) -> float:
    """The average of a row by the paper's columns: the mean without PhysBench, MME's points divided by 20."""
    values = {key: value for key, value in row.items() if key not in LEFT_OUT}
    return fmean(value / MME_SCALE if key == MME else value for key, value in values.items())
