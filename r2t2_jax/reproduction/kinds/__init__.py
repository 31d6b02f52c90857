"""Kinds of tables, each of which adds to its rows further columns, tables and notes.

A kind is a function of the measured rows. It returns any of

    columns   by heading, the text of each row that has one, by the row's name
    tables    further tables: a title, a head, rows of text
    notes     sentences below the table
    numbers   the numbers in the tables and notes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from r2t2_jax.reproduction.kinds.benchmarks import benchmarks, cost, leaderboard
from r2t2_jax.reproduction.kinds.c3po import c3po
from r2t2_jax.reproduction.kinds.flow import flow, transitions
from r2t2_jax.reproduction.kinds.reliability import reliability, rivals
from r2t2_jax.reproduction.table_data import TableData

KINDS: dict[str, Callable[[TableData], dict[str, Any]]] = {
    "sweep": lambda data: {},
    "examples": lambda data: {"notes": ["The examples are in report.html; a fixed rule chooses them."]},
    "benchmarks": benchmarks,
    "c3po": c3po,
    "cost": cost,
    "flow": flow,
    "leaderboard": leaderboard,
    "reliability": reliability,
    "rivals": rivals,
    "transitions": transitions,
}
