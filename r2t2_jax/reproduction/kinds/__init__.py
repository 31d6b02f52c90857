"""What a kind of table adds to its rows: further columns, tables and notes, one file each.

A kind is a function of what was found. It returns any of

    columns   for each heading, the text of every row that has one, by the row's name
    tables    further tables: a title, a head, rows of text
    notes     sentences below
    numbers   what the tables and notes say, as numbers
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2t2_jax.reproduction.kinds.benchmarks import benchmarks, placing
from r2t2_jax.reproduction.kinds.cost import cost
from r2t2_jax.reproduction.kinds.flow import flow, transitions
from r2t2_jax.reproduction.kinds.reliability import reliability, rivals
from r2t2_jax.reproduction.table_data import TableData

KINDS: dict[str, Callable[[TableData], dict[str, Any]]] = {
    "sweep": lambda found: {},
    "cases": lambda found: {"notes": ["The cases are in report.html, drawn by a fixed rule; nobody picked them."]},
    "benchmarks": benchmarks,
    "cost": cost,
    "flow": flow,
    "placing": placing,
    "reliability": reliability,
    "rivals": rivals,
    "transitions": transitions,
}
