"""The numbers of a finished reproduction by short names, as `findings.template.md` uses them.

    narrow/table2/own/ngd accuracy        88.2 %
    narrow/table2/own/ngd interval        88.2 % (86.1 to 90.1)
    narrow/table2/own/ngd gain            +33.9 points (+30.5 to +37.2)
    narrow/table2/own/ngd flips           378 / 39
    narrow/table2/own/ngd paper           80.7
    narrow/table2/own/ngd evaluations     102
    narrow/table6/own n                   500
    narrow/table6/own trend               the paper's ordering is not shown (0 of 6 pairs shown, 1 reversed)
    narrow/table4/paper numbers.literal   144.5, or whatever lies there; with a % behind it a share in percent

A value is a number or a text. In a claim, `accuracy` is in percent and `gain` in points.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.formatting import signed, signed_interval
from r2t2_jax.reproduction.export import VERDICTS, read_table

COMPARISONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le, "=": operator.eq}
CLAIM = re.compile(r"(.+?) (>=|<=|>|<|=) (.+)")


class Numbers:
    """The tables of a run, read when asked."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._tables: dict[str, dict[str, Any]] = {}

    def text(self, name: str) -> str:
        """A number as findings print it.

        Raises:
            R2T2Error: there is no such number.
        """
        place, field = self._split(name)
        part, row = self._part(place)
        if field.startswith("numbers."):
            value = _inside(part["numbers"], field.removesuffix("%").split(".")[1:], name)
            return (
                f"{100 * value:.1f} %"
                if field.endswith("%")
                else f"{value:.4g}"
                if value != int(value)
                else f"{value:.0f}"
            )
        if field == "n":
            return f"{part['n']:,}"
        if field == "trend":
            return _trend(part["trend"])
        if row is None:
            raise R2T2Error(f"{name!r} names no row")
        low, high = row["ci95"]
        texts = {
            "accuracy": f"{100 * row['accuracy']:.1f} %",
            "interval": f"{100 * row['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})",
            "gain": f"{signed(row['gain']['points'])} points ({signed_interval(*row['gain']['ci95'])})",
            "flips": f"{row['wrong_to_right']} / {row['right_to_wrong']}",
            "evaluations": f"{row['evaluations_per_sample']:g}",
            "paper": f"{row.get('paper', float('nan')):.1f}",
        }
        if field not in texts:
            raise R2T2Error(f"{name!r} asks for {field!r}; known are {', '.join(texts)}, n, trend, numbers.*")
        return texts[field]

    def value(self, name: str) -> float:
        """A number to compare with; a literal stands for itself.

        Raises:
            R2T2Error: there is no such number.
        """
        try:
            return float(name)
        except ValueError:
            pass
        place, field = self._split(name)
        part, row = self._part(place)
        if field.startswith("numbers."):
            return float(_inside(part["numbers"], field.removesuffix("%").split(".")[1:], name))
        if field.startswith("trend."):
            return float(part["trend"][field.removeprefix("trend.")])
        if row is None:
            raise R2T2Error(f"{name!r} names no row")
        values = {
            "accuracy": 100 * row["accuracy"],
            "gain": row["gain"]["points"],
            "gain.low": row["gain"]["ci95"][0],
            "gain.high": row["gain"]["ci95"][1],
            "evaluations": row["evaluations_per_sample"],
        }
        if field not in values:
            raise R2T2Error(f"{name!r} cannot be compared; known are {', '.join(values)}, numbers.*, trend.*")
        return float(values[field])

    def holds(self, claim: str) -> bool:
        """Whether `A > B` and the like is so.

        Raises:
            R2T2Error: the claim compares nothing.
        """
        found = CLAIM.fullmatch(claim.strip())
        if found is None:
            raise R2T2Error(f"the claim {claim!r} compares nothing")
        return bool(COMPARISONS[found[2]](self.value(found[1].strip()), self.value(found[3].strip())))

    def _split(self, name: str) -> tuple[list[str], str]:
        place, _, field = name.strip().rpartition(" ")
        if not place:
            raise R2T2Error(f"{name!r} is no number's name: MODEL/TABLE/SETTING/ROW FIELD")
        return place.split("/"), field

    def _part(self, place: list[str]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        model, table, setting, *rest = place
        if table not in self._tables:
            self._tables[table] = read_table(self._run, table)
        models = self._tables[table]["models"]
        full = next((name for name in models if name == model or name.partition(":")[2] == model), None)
        if full is None or setting not in models[full]:
            raise R2T2Error(f"{'/'.join(place)}: {table} has no part for {model} under {setting}")
        part, name = models[full][setting], "/".join(rest)
        rows = {row["name"]: row for row in part["rows"]}
        if name and ("accuracy" not in rows.get(name, {})):
            raise R2T2Error(f"{'/'.join(place)}: there is no such row, or it was not run")
        return part, rows.get(name)


def _inside(tree: Any, path: list[str], name: str) -> Any:
    for step in path:
        try:
            tree = tree[int(step)] if isinstance(tree, list) else tree[step]
        except (KeyError, IndexError, ValueError) as error:
            raise R2T2Error(f"{name!r}: there is no {step!r}") from error
    return tree


def _trend(found: Mapping[str, Any] | None) -> str:
    if not found:
        return "the paper orders nothing"
    total = found["shown"] + found["reversed"] + found["open"]
    return f"{VERDICTS[found['verdict']]} ({found['shown']} of {total} pairs shown, {found['reversed']} reversed)"
