"""Writes the result of a table as Markdown, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from r2t2_jax.methods import BASE, BASE_PERMUTED
from r2t2_jax.reporting.formatting import signed, signed_interval
from r2t2_jax.reporting.tables import csv_table, markdown_table
from r2t2_jax.runs.atomic_io import atomic_write, publish_json
from r2t2_jax.runtime.typed_json import read_json

SETTINGS = {"own": "the model's own settings", "paper": "the paper's settings", "c3po": "C3PO's settings"}
UNMODIFIED = (BASE, BASE_PERMUTED)  # rows without a gain
VERDICTS = {
    "holds": "the paper's ordering holds",
    "partly": "the paper's ordering holds in part",
    "mixed": "the paper's ordering holds for some pairs and is reversed for others",
    "reversed": "the paper's ordering is reversed",
    "open": "the paper's ordering is not shown",
}


def write_table(folder: Path, result: Mapping[str, Any]) -> None:
    """Write `<table>.json`, `<table>.csv` and `<table>.md`."""
    name = result["table"]
    publish_json(folder / f"{name}.json", result)
    for suffix, text in (("csv", csv_text(result)), ("md", markdown(result))):
        atomic_write(folder / f"{name}.{suffix}", partial(_write, text))


def _write(text: str, draft: Path) -> None:
    draft.write_text(text, encoding="utf-8", newline="\n")


def read_table(folder: Path, name: str) -> dict[str, Any]:
    """The result that `write_table` wrote."""
    return read_json(folder / f"{name}.json", dict)


def markdown(result: Mapping[str, Any]) -> str:
    """The table as Markdown, with a part for each model and setting."""
    numbers = ", ".join(result["shows"])
    head = f"## {result['title']}" + (f" ({numbers} of the paper)" if numbers else "")
    parts = [head, result["question"]]
    for model, settings in result["models"].items():
        for setting, part in settings.items():
            parts.append(f"### {model}, {SETTINGS[setting]}, n = {part['n']:,}")
            parts.append(rows_table(part["rows"], part.get("columns", {})))
            if part["trend"]:
                parts.append(trend_line(part["trend"]))
            for table in part.get("tables", ()):
                parts += [f"{table['title']}:", markdown_table(table["head"], table["rows"], align_right=True)]
            parts += part.get("notes", ())
    return "\n\n".join(parts) + "\n"


def rows_table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, str]]) -> str:
    """The rows of a part in Markdown, with the columns of its kind, and the reasons of rows that were not run."""
    has_paper = any("paper" in row for row in rows)
    head = ["", *(["paper, %"] if has_paper else []), "here, % (95 % interval)", "gain over base, points"]
    head += ["wrong→right / right→wrong", "evaluations per question"]
    used_fallback = any(row.get("used_fallback") for row in rows)
    head += ["without neighbors"] if used_fallback else []
    lines = []
    for row in rows:
        cells = [row["name"], *([f"{row['paper']:.1f}" if "paper" in row else "–"] if has_paper else [])]
        cells += _numbers(row) if "accuracy" in row else ["not run", "", "", ""]
        cells += [str(row.get("used_fallback", ""))] if used_fallback else []
        lines.append(cells + [column.get(row["name"], "") for column in columns.values()])
    reasons = [f"{row['name']} was not run: {row['not_run']}." for row in rows if "not_run" in row]
    return "\n\n".join([markdown_table(head + list(columns), lines, align_right=True), *reasons])


def _numbers(row: Mapping[str, Any]) -> list[str]:
    low, high = row["ci95"]
    gain = row["gain"]
    return [
        f"{100 * row['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
        "" if row["name"] in UNMODIFIED else f"{signed(gain['points'])} ({signed_interval(*gain['ci95'])})",
        f"{row['wrong_to_right']} / {row['right_to_wrong']}",
        f"{row['evaluations_per_sample']:g}",
    ]


def trend_line(result: Mapping[str, Any]) -> str:
    """The verdict on the paper's ordering in one sentence, followed by the reversed pairs."""
    total = result["shown"] + result["reversed"] + result["open"]
    low, high = result["tau_ci95"]
    line = (
        f"Trend: {VERDICTS[result['verdict']]}. Of the {total} pairs that the paper orders, {result['shown']} are "
        f"shown, {result['reversed']} reversed and {result['open']} open (paired bootstrap, 95 % jointly); "
        f"Kendall's tau {result['tau']:+.2f} ({low:+.2f} to {high:+.2f})."
    ).replace("-", "−")
    pairs = [pair for pair in result["pairs"] if pair["verdict"] == "reversed"]
    if pairs:
        texts = (f"{pair['worse']} beats {pair['better']} by {abs(pair['points']):.1f} points" for pair in pairs)
        line += f" Reversed: {'; '.join(texts)}."
    return line


def csv_text(result: Mapping[str, Any]) -> str:
    """The table as CSV, with one line per row, model and setting."""
    lines = []
    for model, settings in result["models"].items():
        for setting, part in settings.items():
            for row in part["rows"]:
                was_run = "accuracy" in row
                lines.append(
                    {
                        "model": model,
                        "settings": setting,
                        "row": row["name"],
                        "n": part["n"] if was_run else 0,
                        "paper": row.get("paper"),
                        "accuracy": row.get("accuracy"),
                        "ci95_low": row["ci95"][0] if was_run else None,
                        "ci95_high": row["ci95"][1] if was_run else None,
                        "gain_points": row["gain"]["points"] if was_run else None,
                        "wrong_to_right": row.get("wrong_to_right"),
                        "right_to_wrong": row.get("right_to_wrong"),
                        "evaluations_per_sample": row.get("evaluations_per_sample"),
                        "not_run": row.get("not_run", ""),
                    }
                )
    return csv_table(lines)
