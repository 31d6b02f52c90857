"""Looks up the numbers of a finished reproduction by short names, which `findings.template.md` uses.

    narrow/table2/own/ngd accuracy        88.2 %
    narrow/table2/own/ngd interval        88.2 % (86.1 to 90.1)
    narrow/table2/own/ngd gain            +33.9 points (+30.5 to +37.2)
    narrow/table2/own/ngd flips           378 / 39
    narrow/table2/own/ngd paper           80.7
    narrow/table2/own/ngd evaluations     102
    narrow/table6/own n                   500
    narrow/table6/own trend               the paper's ordering is not shown (0 of 6 pairs shown, 1 reversed)
    narrow/table4/paper numbers.literal   144.5, any entry of `numbers`; with a final % a share in percent

`text` formats a number for the page, `value` returns it for a claim. In a claim, `accuracy` is in percent and `gain` in
points.
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
    """The tables of a run, read on first use."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._tables: dict[str, dict[str, Any]] = {}

    def text(self, name: str) -> str:
        """The formatted number.

        Raises:
            R2T2Error: there is no such number.
        """
        path, field = self._split(name)
        part, row = self._part(path)
        if field.startswith("numbers."):
            value = _lookup(part["numbers"], field.removesuffix("%").split(".")[1:], name)
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
            raise R2T2Error(f"{name!r} does not name a row")
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
            raise R2T2Error(
                f"{name!r} has the unknown field {field!r}; known are {', '.join(texts)}, n, trend, numbers.*"
            )
        return texts[field]

    def value(self, name: str) -> float:
        """The number; a literal is converted.

        Raises:
            R2T2Error: there is no such number.
        """
        try:
            return float(name)
        except ValueError:
            pass
        path, field = self._split(name)
        part, row = self._part(path)
        if field.startswith("numbers."):
            return float(_lookup(part["numbers"], field.removesuffix("%").split(".")[1:], name))
        if field.startswith("trend."):
            return float(part["trend"][field.removeprefix("trend.")])
        if row is None:
            raise R2T2Error(f"{name!r} does not name a row")
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
        """Whether a claim such as `A > B` is true.

        Raises:
            R2T2Error: the claim is not a comparison.
        """
        match = CLAIM.fullmatch(claim.strip())
        if match is None:
            raise R2T2Error(f"the claim {claim!r} is not a comparison")
        return bool(COMPARISONS[match[2]](self.value(match[1].strip()), self.value(match[3].strip())))

    def _split(self, name: str) -> tuple[list[str], str]:
        path, _, field = name.strip().rpartition(" ")
        if not path:
            raise R2T2Error(f"{name!r} is not the name of a number: MODEL/TABLE/SETTING/ROW FIELD")
        return path.split("/"), field

    def _part(self, path: list[str]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        model, table, setting, *rest = path
        if table not in self._tables:
            self._tables[table] = read_table(self._run, table)
        models = self._tables[table]["models"]
        full = next((name for name in models if name == model or name.partition(":")[2] == model), None)
        if full is None or setting not in models[full]:
            raise R2T2Error(f"{'/'.join(path)}: {table} has no part for {model} under {setting}")
        part, name = models[full][setting], "/".join(rest)
        rows = {row["name"]: row for row in part["rows"]}
        if name and ("accuracy" not in rows.get(name, {})):
            raise R2T2Error(f"{'/'.join(path)}: there is no such row, or it was not run")
        return part, rows.get(name)


def _lookup(tree: Any, keys: list[str], name: str) -> Any:
    for key in keys:
        try:
            tree = tree[int(key)] if isinstance(tree, list) else tree[key]
        except (KeyError, IndexError, ValueError) as error:
            raise R2T2Error(f"{name!r}: there is no {key!r}") from error
    return tree


def _trend(trend: Mapping[str, Any] | None) -> str:
    if not trend:
        return "the paper has no ordering"
    total = trend["shown"] + trend["reversed"] + trend["open"]
    return f"{VERDICTS[trend['verdict']]} ({trend['shown']} of {total} pairs shown, {trend['reversed']} reversed)"
