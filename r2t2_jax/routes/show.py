"""Recordings, expert maps and comparisons as text and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from r2t2_jax.routes.compare import ExpertComparison
from r2t2_jax.routes.expert_map import FactorMap
from r2t2_jax.routes.recording import NO_EXPERT, RecordingFacts, SampleRoutes
from r2t2_jax.runs.atomic_io import atomic_folder, check_can_create, check_only_own
from r2t2_jax.runs.batch_files import write_table
from r2t2_jax.runs.run import reraise_oserror
from r2t2_jax.runtime.csv_cells import write_csv

MAP_PAGE, COMPARISON_PAGE = "map.html", "compare.html"
FOLDERS = {  # what a folder with this page is, and its tables
    MAP_PAGE: ("an expert map", ("experts", "pairs")),
    COMPARISON_PAGE: ("a comparison of experts", ("experts", "layers")),
}
SHOWN_EXPERTS, SHOWN_ENTRIES, SHOWN_LAYERS = 8, 5, 12


def routes_lines(sample: SampleRoutes, facts: RecordingFacts, rows: int) -> Iterator[str]:
    """Lines for the last `rows` recorded tokens of a sample, one for each layer."""
    yield f"sample {sample.id} of {sample.source}, category {sample.category or '-'}, answer {sample.prediction!r}"
    count = len(sample.kinds)
    if count > rows:
        yield f"{count - rows:,} of {count:,} recorded tokens come before these; --rows {count} prints all"
    width = max(map(len, facts.layers))
    for i in range(max(0, count - rows), count):
        token = f", token {sample.tokens[i]}" if sample.tokens[i] >= 0 else ""
        yield f"position {sample.positions[i]} ({sample.kinds[i]}{token})"
        for number, layer in enumerate(facts.layers):
            yield f"  {layer:{width}}  {_experts(sample, facts, i, number)}"


def routes_record(sample: SampleRoutes, facts: RecordingFacts) -> dict[str, Any]:
    """A sample as JSON values: for each recorded token and layer the names of the experts, and their weights."""
    tokens = []
    for i, kind in enumerate(sample.kinds):
        layers = {}
        for number, layer in enumerate(facts.layers):
            ids = sample.experts[i, number]
            routed = not (ids == NO_EXPERT).any()
            chosen: dict[str, Any] = {"experts": [facts.experts[e] for e in ids] if routed else []}
            for name in ("weights", "logits"):
                values = getattr(sample, name)
                if values is not None and (routed or name == "logits"):
                    chosen[name] = [float(value) for value in values[i, number]]
            layers[layer] = chosen
        known = int(sample.tokens[i]) if sample.tokens[i] >= 0 else None
        tokens.append({"position": int(sample.positions[i]), "kind": kind, "token": known, "layers": layers})
    texts = ("id", "source", "category", "prediction")
    return {name: getattr(sample, name) for name in texts} | {"tokens": tokens}


def _experts(sample: SampleRoutes, facts: RecordingFacts, row: int, layer: int) -> str:
    ids = sample.experts[row, layer]
    if (ids == NO_EXPERT).any():
        return "no route"
    names = [facts.experts[e] for e in ids[:SHOWN_EXPERTS]]
    if sample.weights is not None:
        names = [f"{name} {weight:.3f}" for name, weight in zip(names, sample.weights[row, layer], strict=False)]
    return ", ".join(names) + (f", and {len(ids) - SHOWN_EXPERTS} more" if len(ids) > SHOWN_EXPERTS else "")


def map_lines(factor_map: FactorMap, permutations: int, rate: float) -> Iterator[str]:
    """The number of significant differences of a factor, and the largest of them."""
    for quantity, tested in factor_map.tested.items():
        if not tested:
            yield f"{factor_map.factor}, {quantity}: the same in all {len(factor_map.groups)} groups"
            continue
        yield (
            f"{factor_map.factor}, {quantity}: {factor_map.significant[quantity]:,} of {tested:,} differences have "
            f"q <= {rate:g} ({len(factor_map.groups)} groups, {permutations:,} permutations, Benjamini-Hochberg)"
        )
        if tested / (permutations + 1) > rate:
            yield f"  a difference that is the only one needs --permutations {tested / rate:,.0f} to reach this q"
        significant = [entry for entry in factor_map.entries if entry[f"{quantity}_q"] <= rate]
        significant.sort(key=lambda entry: -abs(entry[f"{quantity}_difference"]))
        for entry in significant[:SHOWN_ENTRIES]:
            yield (
                f"  {entry['group']}: {entry['layer']}, {entry['expert']}: {quantity} {entry[quantity]:.3f}, "
                f"{entry[f'{quantity}_difference']:+.3f} from the mean, q = {entry[f'{quantity}_q']:.3g}"
            )


def comparison_lines(comparison: ExpertComparison, rate: float) -> Iterator[str]:
    """The units, the movement of each layer, and the largest significant differences."""
    unit = "pairs of samples" if comparison.paired else "samples"
    for group, (first, second) in comparison.units.items():
        counts = f"{first:,}" if comparison.paired else f"{first:,} and {second:,}"
        yield f"{group}: {counts} {unit}"
    if comparison.left_out:
        yield f"{comparison.left_out:,} samples are in one recording only and are left out"
    several = len(comparison.groups) > 1
    rows = sorted(comparison.movement, key=lambda row: row["expected"] - row["moved"])[:SHOWN_LAYERS]
    shown = f" in {len(rows)} of {len(comparison.movement)} layers" if len(rows) < len(comparison.movement) else ""
    yield f"share of the choices that moved to other experts{shown} (expected by chance):"
    for row in comparison.movement:
        if row not in rows:
            continue
        place = f"{row['group']}, {row['layer']}" if several else row["layer"]
        shared = ""
        if "overlap" in row:
            bounds = f"{100 * row['overlap_low']:.1f} to {100 * row['overlap_high']:.1f}"
            shared = f"; {100 * row['overlap']:.1f} % ({bounds}) of the same prompt tokens' experts are the same"
        yield f"  {place}: {100 * row['moved']:.1f} % ({100 * row['expected']:.1f} %){shared}"
    for quantity, tested in comparison.tested.items():
        if not tested:
            yield f"{quantity}: the same in both recordings"
            continue
        yield (
            f"{quantity}: {comparison.significant[quantity]:,} of {tested:,} differences have q <= {rate:g} "
            "(permutation test, Benjamini-Hochberg)"
        )
        name = f"{quantity}_difference"
        significant = [entry for entry in comparison.entries if entry[f"{quantity}_q"] <= rate]
        for entry in sorted(significant, key=lambda entry: -abs(entry[name]))[:SHOWN_ENTRIES]:
            place = f"{entry['group']}: {entry['layer']}" if several else entry["layer"]
            yield (
                f"  {place}, {entry['expert']}: {entry[f'{quantity}_first']:.3f} to {entry[f'{quantity}_second']:.3f}, "
                f"{entry[name]:+.3f} ({entry[f'{quantity}_low']:+.3f} to {entry[f'{quantity}_high']:+.3f}), "
                f"q = {entry[f'{quantity}_q']:.3g}"
            )


def comparison_record(comparison: ExpertComparison, rate: float) -> dict[str, Any]:
    """The comparison as JSON values; of the entries only those with q at most the rate."""
    significant = [
        entry for entry in comparison.entries if any(entry[f"{quantity}_q"] <= rate for quantity in comparison.tested)
    ]
    return {
        "paired": comparison.paired,
        "units": {group: list(counts) for group, counts in comparison.units.items()},
        "left_out": comparison.left_out,
        "rate": rate,
        "tested": comparison.tested,
        "significant": comparison.significant,
        "layers": comparison.movement,
        "entries": significant,
    }


def write_map(out: Path, maps: Sequence[FactorMap], page: str = "") -> None:
    """Write the entries and pairs of all factors as CSV and Parquet files, and the page if there is one.

    Raises:
        R2T2Error: the folder holds other files, or cannot be written.
    """
    entries = [entry for each in maps for entry in each.entries]
    pairs = [pair for each in maps for pair in each.pairs]
    columns = ("factor", "group", "layer", "expert", "other", "share", "lift", "share_difference", "share_p", "share_q")
    tables = {"experts": _table(entries, tuple(entries[0])), "pairs": _table(pairs, columns)}
    _write(out, tables, MAP_PAGE, page)


def write_comparison(out: Path, comparison: ExpertComparison, page: str) -> None:
    """Write the entries and the movement of layers as CSV and Parquet files, and the page.

    Raises:
        R2T2Error: the folder holds other files, or cannot be written.
    """
    records = {"experts": comparison.entries, "layers": comparison.movement}
    tables = {name: _table(rows, tuple(rows[0])) for name, rows in records.items()}
    _write(out, tables, COMPARISON_PAGE, page)


def check_tables_folder(out: Path, page_name: str) -> None:
    """Check, before any work is done, that `write_map` or `write_comparison` may write a folder.

    Args:
        out: the folder.
        page_name: `MAP_PAGE` or `COMPARISON_PAGE`.

    Raises:
        R2T2Error: the folder holds other files, or cannot be written.
    """
    check_can_create(out)
    content, tables = FOLDERS[page_name]
    files = sorted(f"{name}.{suffix}" for name in tables for suffix in ("csv", "parquet"))
    check_only_own(out, lambda name: name in (*files, page_name), content, files)


def _write(out: Path, tables: Mapping[str, pa.Table], page_name: str, page: str) -> None:
    check_tables_folder(out, page_name)

    def write(draft: Path) -> None:
        for name, table in tables.items():
            write_table(draft / f"{name}.parquet", table)
            write_csv(draft / f"{name}.csv", table)
        if page:
            (draft / page_name).write_text(page, encoding="utf-8", newline="\n")

    with reraise_oserror(f"cannot write {out}"):
        atomic_folder(out, write)


def _table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    kinds = {"units": pa.int64(), "tokens": pa.int64()}
    texts = ("factor", "group", "layer", "expert", "other")
    types = {name: kinds.get(name, pa.string() if name in texts else pa.float64()) for name in columns}
    return pa.table({name: pa.array([record.get(name) for record in records], kind) for name, kind in types.items()})
