"""Whatever can be evaluated, by name: strategies, which return a routing, and baselines, which return answers."""

from __future__ import annotations

from r2t2_jax.baselines import BASELINES, baseline
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.lookup import Method
from r2t2_jax.presets import Preset
from r2t2_jax.strategies import STRATEGIES, strategy


def method_of(name: str, preset: Preset) -> Method:
    """The strategy or the baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is none of this name, or a number of the preset is out of range.
    """
    if name not in STRATEGIES and name not in BASELINES:
        raise R2T2Error(f"unknown strategy {name!r}; choose one of {', '.join((*STRATEGIES, *BASELINES))}")
    return baseline(name, preset) if name in BASELINES else strategy(name, preset)
