"""Recordings and expert maps as text and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from r2t2_jax.routes.expert_map import FactorMap
from r2t2_jax.routes.recording import NO_EXPERT, RecordingFacts, SampleRoutes
from r2t2_jax.runs.atomic_io import atomic_folder, check_foreign
from r2t2_jax.runs.batch_files import write_table
from r2t2_jax.runs.run import reraise_oserror

TABLES = ("experts", "pairs")
SHOWN_EXPERTS, SHOWN_ENTRIES = 8, 5


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


def write_map(out: Path, maps: Sequence[FactorMap]) -> None:
    """Write the entries and pairs of all factors as CSV and Parquet files.

    Raises:
        R2T2Error: the folder holds other files, or cannot be written.
    """
    files = {f"{name}.{suffix}" for name in TABLES for suffix in ("csv", "parquet")}
    check_foreign(out, lambda name: name in files, "an expert map")
    entries = [entry for each in maps for entry in each.entries]
    pairs = [pair for each in maps for pair in each.pairs]
    columns = {"pairs": ("factor", "group", "layer", "expert", "other", "share", "lift"), "experts": tuple(entries[0])}

    def write(draft: Path) -> None:
        for name, records in (("experts", entries), ("pairs", pairs)):
            table = _table(records, columns[name])
            write_table(draft / f"{name}.parquet", table)
            pacsv.write_csv(table, draft / f"{name}.csv")

    with reraise_oserror(f"cannot write {out}"):
        atomic_folder(out, write)


def _table(records: Sequence[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    kinds = {"units": pa.int64(), "tokens": pa.int64()}
    texts = ("factor", "group", "layer", "expert", "other")
    types = {name: kinds.get(name, pa.string() if name in texts else pa.float64()) for name in columns}
    return pa.table({name: pa.array([record[name] for record in records], kind) for name, kind in types.items()})
