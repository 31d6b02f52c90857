"""The preset a search ends with, and the evidence for it, as they are written to `preset.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.evaluation.comparison import TESTS, compare
from r2t2_jax.evaluation.summary import DIGITS, wilson_interval
from r2t2_jax.evaluation.tuning import BESIDE, SLACK, Measured, Tuning, cheapest_good
from r2t2_jax.presets import Preset

RULE = f"the cheapest setting within {100 * SLACK:g} point of the best of those measured on all questions"
CAUTION = "the best of many settings is partly luck: expect a little less on new questions"


def tuned_preset(
    name: str,
    presets: Sequence[Preset],
    varied: Sequence[str],
    tuning: Tuning,
    found: Sequence[Sequence[Measured]],
    method: str = "ngd",
) -> dict[str, Any]:
    """The chosen settings, how they compare, and the table of all that were tried, ready for JSON.

    Args:
        name: of the preset.
        presets: all settings, by number.
        varied: the fields in which they differ.
        tuning: the finished search.
        found: what it found, rung by rung.
        method: the strategy that was tuned.
    """
    last: dict[int, Measured] = {one.number: one for rung in found for one in rung}
    chosen = cheapest_good(found[-1])
    beside = {key: tuning.beside(key) for key in BESIDE}
    gain = compare(beside["base"], chosen.right)
    models = list(tuning.benches)
    by_model = np.split(chosen.right, len(models))
    return {
        "name": name,
        "strategy": method,
        "settings": presets[chosen.number].to_mapping(),
        "evidence": {
            **_measures(chosen.right),
            "by_model": {model: _measures(right) for model, right in zip(models, by_model, strict=True)},
            "evaluations_per_case": chosen.evaluations,
            **{key: _measures(right) for key, right in beside.items()},
            "gain_over_base": {
                "points": round(100 * gain.gain, 2),
                "ci95": [round(100 * gain.low, 2), round(100 * gain.high, 2)],
                "test": TESTS["right"],
            },
            "rule": RULE,
            "caution": CAUTION,
            "tried": len(last),
            "table": [
                {
                    **_varied(presets[one.number], varied),
                    **_measures(one.right),
                    "evaluations_per_case": one.evaluations,
                }
                for one in sorted(last.values(), key=lambda one: (-len(one.right), -one.accuracy, one.evaluations))
            ],
        },
    }


def _measures(right: Bool[np.ndarray, "n"]) -> dict[str, Any]:
    low, high = wilson_interval(int(right.sum()), len(right))
    return {
        "n": len(right),
        "accuracy": round(float(right.mean()), DIGITS),
        "ci95": [round(low, DIGITS), round(high, DIGITS)],
    }


def _varied(preset: Preset, varied: Sequence[str]) -> Mapping[str, Any]:
    settings = preset.to_mapping()
    return {key: settings[key] for key in varied}
