"""Which settings a search tries, and on how many questions: a grid, and the rungs of a successive halving.

Every setting is measured on a few questions, the better third goes on to twice as many, and so on up to all questions:
a bad setting shows on few (successive halving; Jamieson & Talwalkar 2016). With few settings, or few questions, all are
measured on everything.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy

VARIED = {  # what is tuned of a strategy, settings by path
    "ngd": ("space.kind", "descent.optimizer", "descent.learning_rate", "neighborhood.k", "neighborhood.kernel"),
    "atlas": ("neighborhood.kernel", "atlas.k", "atlas.loss", "atlas.temperature", "atlas.proximal_weight"),
}
USUAL = {  # what is tried of settings in units of the atlas's loss, where nobody says otherwise
    "bounded": {"atlas.temperature": (0.005, 0.01, 0.02, 0.05), "atlas.proximal_weight": (0.0, 0.1, 0.2)},
    "cross_entropy": {"atlas.temperature": (0.01, 0.03, 0.1, 0.3), "atlas.proximal_weight": (0.0, 0.5, 1.0)},
}
NEIGHBORS = {"ngd": "neighborhood.k", "atlas": "atlas.k"}  # which of these is the number of neighbours
DECAY = 30  # the cosine schedule ends at the learning rate divided by this
FEW_SETTINGS = 12
FIRST_QUESTIONS = 50
KEPT = 3  # one setting of so many goes on


def grid_presets(base: Preset, values: Mapping[str, Sequence[Any] | None], method: str = "ngd") -> list[Preset]:
    """A preset for each combination of values; everything else is that of `base`.

    Args:
        base: what does not vary.
        values: of the settings by path that vary. A learning rate brings its final one along. Those that are `None`
            are the usual ones for each of the values of `atlas.loss`, which must be among the fields then.
        method: the strategy that is tuned.

    Raises:
        R2T2Error: a field has no value, is unknown, or a value is out of range.
    """
    for name, choices in values.items():
        base.get(name)  # refuses a setting that does not exist
        if choices is not None and not choices:
            raise R2T2Error(f"no values of {name!r} to try")
    presets = []
    for changed in _combinations(values):
        if "descent.learning_rate" in changed:
            changed["descent.final_learning_rate"] = changed["descent.learning_rate"] / DECAY
        preset = base.with_settings(changed)
        strategy(method, preset)  # refuses what is out of range
        presets.append(preset)
    return list(dict.fromkeys(presets))


def _combinations(values: Mapping[str, Sequence[Any] | None]) -> Iterator[dict[str, Any]]:
    for filled in _filled(values):
        for combination in itertools.product(*filled.values()):
            yield dict(zip(filled, combination, strict=True))


def _filled(values: Mapping[str, Sequence[Any] | None]) -> list[dict[str, Sequence[Any]]]:
    """The values; where some are left open, once for each kind of loss with the usual ones for it."""
    given = {name: choices for name, choices in values.items() if choices is not None}
    left_open = [name for name in values if name not in given]
    if not left_open:
        return [given]
    usual = {loss: {name: USUAL[loss][name] for name in left_open} for loss in given["atlas.loss"]}
    return [{**given, "atlas.loss": (loss,), **usual[loss]} for loss in usual]


@dataclass(frozen=True)
class Budget:
    """How much a search may try: so many settings, or for so many minutes; `None` for no limit."""

    settings: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> Budget:
        """`40` is a number of settings, `90m` and `1.5h` are a time.

        Raises:
            R2T2Error: neither.
        """
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([mh]?)", text.strip())
        if not found or not float(found[1]) or (not found[2] and "." in found[1]):
            raise R2T2Error(f"budget {text!r} is neither a number of settings, as 40, nor a time, as 90m or 1.5h")
        if not found[2]:
            return cls(settings=int(found[1]))
        return cls(minutes=float(found[1]) * (60 if found[2] == "h" else 1))


def sample_order(presets: Sequence[Preset], budget: Budget, seed: int) -> list[Preset]:
    """The settings in the order in which they are tried: shuffled, so that those a budget leaves out are anybody."""
    order = np.random.default_rng(seed).permutation(len(presets))
    return [presets[i] for i in order[: budget.settings]]


@dataclass(frozen=True)
class HalvingRound:
    """`settings` settings are measured on questions `start` to `stop`."""

    settings: int
    start: int
    stop: int


def rungs(settings: int, questions: int) -> list[HalvingRound]:
    """The rungs for so many settings and questions; the last one ends at all questions."""
    if settings <= FEW_SETTINGS or questions <= FIRST_QUESTIONS:
        return [HalvingRound(settings, 0, questions)]
    found = [HalvingRound(settings, 0, FIRST_QUESTIONS)]
    while found[-1].stop < questions:
        stop = 2 * found[-1].stop
        stop = questions if stop * 1.5 > questions else stop  # no last rung of a handful
        fewer = max(math.ceil(found[-1].settings / KEPT), min(found[-1].settings, FEW_SETTINGS // KEPT))
        found.append(HalvingRound(fewer, found[-1].stop, stop))
    return found


def plan_in_words(grid: int, drawn: int, plan: Sequence[HalvingRound], budget: Budget) -> str:
    """What is tried and why so, in one sentence or three."""
    parts = [f"{grid:,} settings"]
    if drawn < grid:
        parts.append(f", {drawn:,} of them drawn at random to keep the budget")
    if len(plan) == 1:
        parts.append(f": few enough to measure each on all {plan[0].stop:,} questions.")
    else:
        steps = [f"{rung.settings:,} on {rung.stop:,} questions" for rung in plan]
        parts.append(f": too many for all questions, so by successive halving, {', then '.join(steps)}; ")
        parts.append("a bad setting shows on few.")
    if budget.minutes is not None:
        parts.append(f" After {budget.minutes / len(plan):g} minutes no further setting is begun.")
    return "".join(parts)
