"""Whatever can be evaluated, by name: strategies, which return a routing, and baselines, which return answers."""

from __future__ import annotations

from collections.abc import Callable

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import PAPER, Preset
from r2t2_jax.method.strategies import (
    ATLAS_STRATEGIES,
    PAPER_STRATEGIES,
    Strategy,
    kernel_of,
)
from r2t2_jax.retrieval.neighbors import (
    NearestNeighbors,
)
from r2t2_jax.rivals.atlas_ensemble import atlas_ensemble
from r2t2_jax.rivals.base import Baseline
from r2t2_jax.rivals.in_context import InContext
from r2t2_jax.rivals.neighbor_vote import NeighborVote
from r2t2_jax.rivals.strategies import RIVAL_STRATEGIES
from r2t2_jax.rivals.warmup import Warmup

STRATEGIES: dict[str, Callable[[Preset], Strategy]] = {**PAPER_STRATEGIES, **ATLAS_STRATEGIES, **RIVAL_STRATEGIES}

BASELINES: dict[str, Callable[[Preset], Baseline]] = {
    "atlas_top8": atlas_ensemble,
    "neighbor_vote": lambda p: NeighborVote(selector=NearestNeighbors(p.k), kernel=kernel_of(p)),
    "warmup": lambda p: Warmup(p.warmup_learning_rate),
    "in_context": lambda p: InContext(selector=NearestNeighbors(p.k), kernel=kernel_of(p)),
}

Method = Strategy | Baseline


def baseline(name: str, preset: Preset = PAPER) -> Baseline:
    """The baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is no baseline of this name, or a number of the preset is out of range.
    """
    if name not in BASELINES:
        raise R2T2Error(f"unknown baseline {name!r}; choose one of {', '.join(BASELINES)}")
    return BASELINES[name](preset)


def method_of(name: str, preset: Preset) -> Method:
    """The strategy or the baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is none of this name, or a number of the preset is out of range.
    """
    if name not in STRATEGIES and name not in BASELINES:
        raise R2T2Error(f"unknown strategy {name!r}; choose one of {', '.join((*STRATEGIES, *BASELINES))}")
    return baseline(name, preset) if name in BASELINES else strategy(name, preset)


def strategy(name: str, preset: Preset = PAPER) -> Strategy:
    """The strategy of this name with a preset's numbers.

    Raises:
        R2T2Error: there is no strategy of this name, or a number of the preset is out of range.
    """
    if name not in STRATEGIES:
        raise R2T2Error(f"unknown strategy {name!r}; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name](preset)
