"""The pages of `r2t2 experts map` and `compare`: heat maps of layers and experts which can be sorted and filtered.

Without scripts a page shows the largest differences and a drawing of each group; with scripts it draws any quantity of
any group on a canvas, and lists the entries. All numbers are in the page.

Axis letters: N layers, E experts.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from r2t2_jax.reporting.bank_report import Table
from r2t2_jax.reporting.cases import pack
from r2t2_jax.reporting.formatting import decimal, plural, true_minus
from r2t2_jax.reporting.page import render_template
from r2t2_jax.routes.compare import ExpertComparison
from r2t2_jax.routes.expert_map import FactorMap
from r2t2_jax.routes.recording import RecordingFacts

SCALE = 10_000  # values are stored as whole numbers of this part of one
MAX_VALUES = 3_000_000  # of a page; further groups are in the CSV file only
SHOWN = 12  # entries of a table that needs no script
POSITIVE, NEGATIVE = (0, 114, 178), (213, 94, 0)


@dataclass(frozen=True)
class Quantity:
    """A quantity that a heat map can show.

    Args:
        name: column of the entries.
        label: in the list of quantities.
        signed: whether it is a difference.
        q: column of its q-values; empty if it was not tested.
        columns: further columns of the list of entries, by heading.
    """

    name: str
    label: str
    signed: bool
    q: str
    columns: Mapping[str, str]


def map_page(title: str, maps: Sequence[FactorMap], facts: RecordingFacts, rate: float, permutations: int) -> str:
    """The page of an expert map."""
    quantities = []
    for name in ["usage", "weight"][: 1 + facts.weights]:
        columns = {name: name, "from the mean": f"{name}_difference"}
        quantities.append(
            Quantity(f"{name}_difference", f"{name}: difference from the mean", True, f"{name}_q", columns)
        )
        quantities.append(Quantity(name, name, False, f"{name}_q", columns))
    if not any(each.tested["usage"] for each in maps):
        quantities = quantities[2:] + quantities[:2]  # every expert serves every sample
    views = []
    for each in maps:
        for group in each.groups:
            entries = [entry for entry in each.entries if entry["group"] == group]
            unit = "part of a sample" if each.factor == "modality" else "sample"
            units = plural(entries[0]["units"], unit).replace("part of a samples", "parts of samples")
            counts = f"{plural(entries[0]['tokens'], 'token')} in {units}"
            views.append((f"{each.factor}: {group or 'unnamed'}", counts, entries))
    sentences = [
        f"{each.factor}, {quantity}: {each.significant[quantity]:,} of {tested:,} differences between "
        f"{plural(len(each.groups), 'group')} have q ≤ {rate:g}."
        if tested
        else f"{each.factor}, {quantity}: the same in all groups."
        for each in maps
        for quantity, tested in each.tested.items()
    ]
    note = (
        "Usage is the share of tokens that choose an expert, weight its mean combine weight, both averaged over units "
        "(samples, or their tokens of one modality). Differences are from the mean of all units; q is the p-value of "
        f"{permutations:,} permutations after Benjamini-Hochberg. Experts that serve all groups alike have "
        "no difference."
    )
    pairs = [_pairs(each, group, facts) for each in maps for group in each.groups]
    return _page(title, sentences, note, facts.layers, facts.experts, quantities, views, rate, None, pairs)


def _pairs(factor_map: FactorMap, group: str, facts: RecordingFacts) -> list[list[int]]:
    """The pairs of a group: numbers of layer and experts, then share, lift, difference and q in parts of `SCALE`."""
    layers, experts = ({name: number for number, name in enumerate(names)} for names in (facts.layers, facts.experts))
    return [
        [layers[pair["layer"]], experts[pair["expert"]], experts[pair["other"]]]
        + [round(SCALE * pair[name]) for name in ("share", "lift", "share_difference", "share_q")]
        for pair in factor_map.pairs
        if pair["group"] == group
    ]


def comparison_page(title: str, comparison: ExpertComparison, rate: float, permutations: int) -> str:
    """The page of a comparison of two recordings."""
    quantities = []
    for name in comparison.tested:
        columns = {
            "first": f"{name}_first", "second": f"{name}_second", "difference": f"{name}_difference",
            "95 % from": f"{name}_low", "to": f"{name}_high",
        }  # fmt: skip
        quantities += [
            Quantity(f"{name}_difference", f"{name}: second minus first", True, f"{name}_q", columns),
            Quantity(f"{name}_first", f"{name} in the first", False, f"{name}_q", columns),
            Quantity(f"{name}_second", f"{name} in the second", False, f"{name}_q", columns),
        ]
    if not comparison.tested["usage"]:
        quantities = quantities[3:] + quantities[:3]
    unit = "pair of samples" if comparison.paired else "sample"
    views = []
    for group in comparison.groups:
        first, second = comparison.units[group]
        counts = f"{first:,} pairs of samples" if comparison.paired else f"{first:,} and {second:,} samples"
        views.append((group or "unnamed", counts, [row for row in comparison.entries if row["group"] == group]))
    sentences = [
        f"{quantity}: {comparison.significant[quantity]:,} of {tested:,} differences have q ≤ {rate:g}."
        if tested
        else f"{quantity}: the same in both recordings."
        for quantity, tested in comparison.tested.items()
    ]
    note = (
        f"Differences are those of the second recording from the first. The 95 % intervals are bootstrapped over each "
        f"{unit}; q is the p-value of {permutations:,} permutations after Benjamini-Hochberg. “Moved” is the share of "
        "a layer's choices that are with other experts, next to what permuted labels give by chance."
    )
    return _page(
        title, sentences, note, comparison.layers, comparison.experts, quantities, views, rate, _movement(comparison)
    )


def _movement(comparison: ExpertComparison) -> Table:
    header = ["layer", "moved, %", "by chance, %"]
    overlaps = "overlap" in comparison.movement[0]
    header += ["same experts for the same token, %", "95 % interval"] if overlaps else []
    rows = []
    for row in comparison.movement:
        name = row["layer"] if len(comparison.groups) == 1 else f"{row['group']}, {row['layer']}"
        cells = [name, f"{100 * row['moved']:.1f}", f"{100 * row['expected']:.1f}"]
        if overlaps:
            bounds = f"{100 * row['overlap_low']:.1f}–{100 * row['overlap_high']:.1f}"
            cells += [f"{100 * row['overlap']:.1f}", bounds]
        rows.append(tuple(cells))
    return tuple(header), rows


def _page(
    title: str,
    sentences: Sequence[str],
    note: str,
    layers: tuple[str, ...],
    experts: tuple[str, ...],
    quantities: Sequence[Quantity],
    views: Sequence[tuple[str, str, list[dict[str, Any]]]],
    rate: float,
    movement: Table | None,
    pairs: Sequence[list[list[int]]] = (),
) -> str:
    """The page; `pairs` are those of each view, if it has any."""
    shape = (len(layers), len(experts))
    names = list(dict.fromkeys(name for each in quantities for name in (*each.columns.values(), each.name, each.q)))
    room = max(1, MAX_VALUES // (shape[0] * shape[1] * len(names)))
    shown = views[:room]
    arrays = [
        {name: np.array([entry[name] for entry in entries]).reshape(shape) for name in names} for _, _, entries in shown
    ]
    first = quantities[0]
    largest = max(float(np.abs(each[first.name]).max()) for each in arrays) or 1.0
    drawings = [
        (name, counts, _drawing(each[first.name] / largest))
        for (name, counts, _), each in zip(shown, arrays, strict=True)
    ]
    block = {
        "layers": layers, "experts": experts, "rate": rate, "scale": SCALE,
        "quantities": [
            {"name": q.name, "label": q.label, "signed": q.signed, "q": q.q, "columns": list(q.columns.items())}
            for q in quantities
        ],
        "views": [
            {"name": name, "note": counts, "values": {
                column: np.rint(SCALE * values).astype(int).ravel().tolist() for column, values in each.items()
            }}
            for (name, counts, _), each in zip(shown, arrays, strict=True)
        ],
        "pairs": list(pairs[:room]),
    }  # fmt: skip
    return render_template(
        "expert_page.html.j2",
        title=title,
        sentences=sentences,
        note=note,
        movement=movement,
        largest_entries=_largest_entries(shown, first, rate),
        drawings=drawings,
        drawn=f"{first.label}; darkest is {decimal(largest)}",
        layers=len(layers),
        experts=len(experts),
        block=pack(block),
        left_out=[name for name, _, _ in views[room:]],
    )


def _largest_entries(views: Sequence[tuple[str, str, list[dict[str, Any]]]], quantity: Quantity, rate: float) -> Table:
    """The entries with the largest significant differences, of all groups."""
    rows = [(name, entry) for name, _, entries in views for entry in entries if entry[quantity.q] <= rate]
    rows.sort(key=lambda row: -abs(row[1][quantity.name]))
    header = ("group", "layer", "expert", *quantity.columns, "q")
    cells = [
        (
            name,
            entry["layer"],
            entry["expert"],
            *(true_minus(f"{entry[column]:.3f}") for column in quantity.columns.values()),
            f"{entry[quantity.q]:.3g}",
        )
        for name, entry in rows[:SHOWN]
    ]
    return header, cells


def _drawing(values: Float[np.ndarray, "N E"]) -> bytes:
    """A PNG file with one pixel per layer (row) and expert, blue above zero and orange below; zero is transparent."""
    colors = np.where(values[..., None] >= 0, np.array(POSITIVE), np.array(NEGATIVE))
    alpha = np.rint(255 * np.clip(np.abs(values), 0, 1))
    pixels = np.concatenate([colors, alpha[..., None]], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, "PNG", optimize=True)
    return out.getvalue()
