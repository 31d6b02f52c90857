"""The settings that a search tries and the rounds of successive halving (Jamieson & Talwalkar 2016).

All settings are measured on a few questions, the best third on twice as many, and so on up to all questions, since bad
settings show on few questions. With few settings or few questions, all settings are measured on all questions.
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

VARIED = {  # the tuned settings of each strategy, by path in `Preset`
    "ngd": ("space.kind", "descent.optimizer", "descent.learning_rate", "neighborhood.k", "neighborhood.kernel"),
    "atlas": ("neighborhood.kernel", "atlas.k", "atlas.loss", "atlas.temperature", "atlas.proximal_weight"),
}
DEFAULT_VALUES = {  # of settings in units of the atlas's loss, for each loss
    "bounded": {"atlas.temperature": (0.005, 0.01, 0.02, 0.05), "atlas.proximal_weight": (0.0, 0.1, 0.2)},
    "cross_entropy": {"atlas.temperature": (0.01, 0.03, 0.1, 0.3), "atlas.proximal_weight": (0.0, 0.5, 1.0)},
}
NEIGHBORS = {"ngd": "neighborhood.k", "atlas": "atlas.k"}  # the setting that is the number of neighbors
DECAY = 30  # initial over final learning rate of the cosine schedule
FEW_SETTINGS = 12  # up to this number, all are measured on all questions
FIRST_QUESTIONS = 50  # of the first round
REDUCTION = 3  # settings of a round over settings of the next


def grid_presets(base: Preset, values: Mapping[str, Sequence[Any] | None], method: str = "ngd") -> list[Preset]:
    """A preset for each combination of values; all other settings are those of `base`.

    Args:
        base: the settings that do not vary.
        values: of the settings that vary, by path. The final learning rate follows the initial one. `None` means
            `DEFAULT_VALUES` for each value of `atlas.loss`, which must then be among the settings.
        method: name of the tuned strategy.

    Raises:
        R2T2Error: a setting does not exist or has no values, or a value is out of range.
    """
    for name, choices in values.items():
        base.get(name)  # raises if the setting does not exist
        if choices is not None and not choices:
            raise R2T2Error(f"no values of {name!r} to try")
    presets = []
    for settings in _combinations(values):
        if "descent.learning_rate" in settings:
            settings["descent.final_learning_rate"] = settings["descent.learning_rate"] / DECAY
        preset = base.with_settings(settings)
        strategy(method, preset)  # raises if a value is out of range
        presets.append(preset)
    return list(dict.fromkeys(presets))


def _combinations(values: Mapping[str, Sequence[Any] | None]) -> Iterator[dict[str, Any]]:
    for choices in _with_defaults(values):
        for combination in itertools.product(*choices.values()):
            yield dict(zip(choices, combination, strict=True))


def _with_defaults(values: Mapping[str, Sequence[Any] | None]) -> list[dict[str, Sequence[Any]]]:
    """The values; if some are `None`, once for each loss of the atlas with its default values."""
    specified = {name: choices for name, choices in values.items() if choices is not None}
    missing = [name for name in values if name not in specified]
    if not missing:
        return [specified]
    return [
        {**specified, "atlas.loss": (loss,), **{name: DEFAULT_VALUES[loss][name] for name in missing}}
        for loss in specified["atlas.loss"]
    ]


@dataclass(frozen=True)
class Budget:
    """Limit of a search in settings or in minutes; `None` for no limit."""

    settings: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str | None) -> Budget:
        """Parse a number of settings (`40`) or a time (`90m`, `1.5h`).

        Raises:
            R2T2Error: the text is neither.
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mh]?)", text.strip())
        if not match or not float(match[1]) or (not match[2] and "." in match[1]):
            raise R2T2Error(
                f"budget {text!r} is neither a number of settings, such as 40, nor a time, such as 90m or 1.5h"
            )
        if not match[2]:
            return cls(settings=int(match[1]))
        return cls(minutes=float(match[1]) * (60 if match[2] == "h" else 1))


def sample_order(presets: Sequence[Preset], budget: Budget, seed: int) -> list[Preset]:
    """The settings in random order, so that truncation by the budget is unbiased."""
    order = np.random.default_rng(seed).permutation(len(presets))
    return [presets[i] for i in order[: budget.settings]]


@dataclass(frozen=True)
class HalvingRound:
    """A round of successive halving: `settings` settings are measured on questions `start` to `stop`."""

    settings: int
    start: int
    stop: int


def halving_rounds(settings: int, questions: int) -> list[HalvingRound]:
    """The rounds for a number of settings and questions; the last round includes all questions."""
    if settings <= FEW_SETTINGS or questions <= FIRST_QUESTIONS:
        return [HalvingRound(settings, 0, questions)]
    rounds = [HalvingRound(settings, 0, FIRST_QUESTIONS)]
    while rounds[-1].stop < questions:
        stop = 2 * rounds[-1].stop
        stop = questions if stop * 1.5 > questions else stop  # avoid a last round with few questions
        fewer = max(math.ceil(rounds[-1].settings / REDUCTION), min(rounds[-1].settings, FEW_SETTINGS // REDUCTION))
        rounds.append(HalvingRound(fewer, rounds[-1].stop, stop))
    return rounds


def describe_plan(grid: int, drawn: int, rounds: Sequence[HalvingRound], budget: Budget) -> str:
    """A description of the search for the terminal: number of settings, rounds and budget."""
    parts = [f"{grid:,} settings"]
    if drawn < grid:
        parts.append(f", {drawn:,} of them drawn at random because of the budget")
    if len(rounds) == 1:
        parts.append(f": few enough to measure all on all {rounds[0].stop:,} questions.")
    else:
        steps = [f"{step.settings:,} on {step.stop:,} questions" for step in rounds]
        parts.append(f": too many for all questions, so by successive halving, {', then '.join(steps)}; ")
        parts.append("bad settings show on few questions.")
    if budget.minutes is not None:
        parts.append(f" After {budget.minutes / len(rounds):g} minutes no further setting is started.")
    return "".join(parts)
