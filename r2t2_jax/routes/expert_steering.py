"""Steering files made from recordings: a boost of the experts of a task, and a mask from two contrasting recordings.

Axis letters: N layers, E experts, T recorded tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from r2t2_jax.errors import R2T2Error
from r2t2_jax.routes.recording import NO_EXPERT, Recording
from r2t2_jax.runtime.csv_cells import read_csv
from r2t2_jax.steering.files import layer_positions

MAP_FILE = "experts.csv"
NEEDED = ("factor", "group", "layer", "expert", "usage_difference", "usage_q")
KINDS = {"all": None, "prompt": ("text", "image"), "text": ("text",), "image": ("image",), "answer": ("answer",)}

Rules = list[dict[str, Any]]


def boost_rules(
    folder: Path, task: str, layers: str, strength: float, unit: str, tokens: str, rate: float | None
) -> Rules:
    """A rule per layer that boosts the experts that a task uses more than the mean of all groups.

    The score of an expert is its difference in usage over the largest of these layers; an expert without a positive
    difference has none. Models that mix all experts use all of them alike: the differences in weight count instead.
    Routing Distraction (2026, arXiv 2604.08541) takes the frequencies of a text domain minus generic ones.

    Args:
        folder: written by `r2t2 experts map`.
        task: a group of the map, such as a category; `factor=group` if two factors have it.
        layers: as in a steering file, of the map's layers.
        strength: lambda.
        unit: of the boost, as in a steering file.
        tokens: of the rules.
        rate: only experts with a q-value up to this; `None` for all.

    Raises:
        R2T2Error: the folder holds no map, or the map has no such task or layer, or no expert is left.
    """
    records = _read_map(folder / MAP_FILE)
    own = _of_task(records, task, folder)
    names = tuple(dict.fromkeys(record["layer"] for record in own))
    try:
        chosen = [names[i] for i in layer_positions(layers, names)]
    except R2T2Error as error:
        raise R2T2Error(f"--layers {error}") from error
    quantity = "usage" if any(_number(record, "usage_difference") for record in own) else "weight"
    scores: dict[str, dict[str, float]] = {}
    for record in own:
        difference = _number(record, f"{quantity}_difference")
        clear = rate is None or _number(record, f"{quantity}_q", 1.0) <= rate
        if record["layer"] in chosen and difference > 0 and clear:
            scores.setdefault(record["layer"], {})[record["expert"]] = difference
    if not scores:
        beyond = "" if rate is None else f" with q up to {rate:g}"
        problem = f"{folder}: {task!r} uses no expert more than the mean{beyond} in layers {layers}"
        raise R2T2Error(f"{problem}: map more questions, or choose other layers")
    largest = max(score for row in scores.values() for score in row.values())
    return [
        _rule(layer, tokens)
        | {"boost": {expert: round(score / largest, 4) for expert, score in scores[layer].items()}}
        | {"lambda": strength, "unit": unit}
        for layer in chosen
        if layer in scores
    ]


def _read_map(path: Path) -> list[dict[str, str]]:
    records = read_csv(path, "map the recording again")
    if not records or not set(NEEDED) <= set(records[0]):
        raise R2T2Error(f"{path} holds no expert map: r2t2 experts map DIR --out MAP writes one")
    return records


def _of_task(records: Sequence[Mapping[str, str]], task: str, folder: Path) -> list[Mapping[str, str]]:
    """The records of the group of this name."""
    groups = dict.fromkeys((record["factor"], record["group"]) for record in records)
    matches = [pair for pair in groups if task in (pair[1], "=".join(pair))]
    if not matches:
        known = ", ".join(group for _, group in groups)
        raise R2T2Error(f"{folder} has no group {task!r}; choose one of {known}")
    if len(matches) > 1:
        choices = " or ".join("=".join(pair) for pair in matches)
        raise R2T2Error(f"{folder} has the group {task!r} of two factors; write {choices}")
    return [record for record in records if (record["factor"], record["group"]) == matches[0]]


def _number(record: Mapping[str, str], name: str, default: float = 0.0) -> float:
    text = record.get(name) or ""
    try:
        number = float(text) if text else default
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise R2T2Error(f"the map has {name} = {text!r}, which is no number: map the recording again")
    return number


def mask_rules(
    wanted: Recording, unwanted: Recording, count: int, selected: int, layers: str, tokens: str
) -> tuple[Rules, list[tuple[str, str, float]]]:
    """Rules that mask the experts of an unwanted behavior and select those of a wanted one, and their differences.

    SteerMoE (ICLR 2026, arXiv 2509.09660): the risk difference of an expert is the share of the tokens that choose it
    in the wanted recording minus that in the unwanted one. The experts with the most negative differences are masked,
    those with the most positive ones selected. A layer keeps as many experts as its gate chooses.

    Args:
        wanted, unwanted: recordings of the same model on contrasting questions.
        count: number of experts to mask, of all layers.
        selected: number of experts to select.
        layers, tokens: of the rules; only the recorded tokens of these kinds are counted.

    Returns:
        The rules, and (layer, expert, difference) of the masked and then the selected experts.

    Raises:
        R2T2Error: the recordings do not belong together, or the model mixes all experts, or there are no differences.
    """
    facts = wanted.facts
    for name in ("layers", "experts", "top_k"):
        if getattr(facts, name) != getattr(unwanted.facts, name):
            raise R2T2Error(f"{wanted.folder} and {unwanted.folder} differ in {name}: record both with one model")
    if facts.top_k >= len(facts.experts):
        problem = f"{wanted.folder}: this model mixes all {len(facts.experts)} experts of a sample and chooses none"
        raise R2T2Error(f"{problem}: use r2t2 experts steer, or write a steering file by hand")
    try:
        positions = layer_positions(layers, facts.layers)
    except R2T2Error as error:
        raise R2T2Error(f"--layers {error}") from error
    difference = usage(wanted, tokens) - usage(unwanted, tokens)  # [N, E]
    room = {layer: len(facts.experts) - facts.top_k for layer in positions}
    masked = _extreme(-difference, positions, count, room)
    chosen = _extreme(difference, positions, selected, dict.fromkeys(positions, facts.top_k))
    if not masked and not chosen:
        raise R2T2Error(f"{wanted.folder} and {unwanted.folder} use all experts alike in {layers}: record more tokens")
    rules: Rules = []
    for action, pairs in (("mask", masked), ("select", chosen)):
        for layer in sorted({layer for layer, _ in pairs}):
            experts = [facts.experts[e] for each, e in pairs if each == layer]
            rules.append(_rule(facts.layers[layer], tokens) | {action: experts})
    named = [(facts.layers[i], facts.experts[e], float(difference[i, e])) for i, e in (*masked, *chosen)]
    return rules, named


def _extreme(
    scores: Float[np.ndarray, "N E"], layers: Sequence[int], count: int, room: dict[int, int]
) -> list[tuple[int, int]]:
    """The entries with the largest positive scores, with at most `room` in a layer."""
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-scores, axis=None, kind="stable").tolist():
        layer, expert = divmod(flat, scores.shape[1])
        if len(pairs) == count or scores[layer, expert] <= 0:
            break
        if layer in layers and room[layer]:
            room[layer] -= 1
            pairs.append((layer, expert))
    return pairs


def usage(recording: Recording, tokens: str) -> Float[np.ndarray, "N E"]:
    """The share of a recording's tokens that choose each expert.

    Raises:
        R2T2Error: the recording has no such tokens.
    """
    facts = recording.facts
    shape = len(facts.layers), len(facts.experts)
    counts, total = np.zeros(shape), 0
    for sample in recording.samples():
        kinds = np.asarray(sample.kinds)
        wanted = KINDS[tokens]
        rows = np.ones(len(kinds), bool) if wanted is None else np.isin(kinds, wanted)
        ids = sample.experts[rows & (sample.experts != NO_EXPERT).all(axis=(1, 2))]
        entries = np.arange(shape[0])[None, :, None] * shape[1] + ids
        counts += np.bincount(entries.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        total += len(ids)
    if not total:
        raise R2T2Error(f"{recording.folder} has no {tokens} tokens with a route; choose other --tokens")
    return counts / total


def _rule(layer: str, tokens: str) -> dict[str, Any]:
    return {"layers": [layer]} | ({} if tokens == "all" else {"tokens": tokens})
