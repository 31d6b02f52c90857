"""Rivals that return answers rather than a routing, one file each."""

from collections.abc import Callable

from r2t2_jax.baselines.atlas_ensemble import AtlasEnsemble, atlas_ensemble
from r2t2_jax.baselines.baseline import Baseline
from r2t2_jax.baselines.in_context import InContext
from r2t2_jax.baselines.neighbor_vote import NeighborVote
from r2t2_jax.baselines.warmup import Warmup
from r2t2_jax.errors import R2T2Error
from r2t2_jax.neighbors import NearestNeighbors
from r2t2_jax.presets import PAPER, Preset
from r2t2_jax.strategies import kernel_of

BASELINES: dict[str, Callable[[Preset], Baseline]] = {
    "atlas_top8": atlas_ensemble,
    "neighbor_vote": lambda p: NeighborVote(selector=NearestNeighbors(p.k), kernel=kernel_of(p)),
    "warmup": lambda p: Warmup(p.warmup_learning_rate),
    "in_context": lambda p: InContext(selector=NearestNeighbors(p.k), kernel=kernel_of(p)),
}


def baseline(name: str, preset: Preset = PAPER) -> Baseline:
    """The baseline of this name with a preset's numbers.

    Raises:
        R2T2Error: there is no baseline of this name, or a number of the preset is out of range.
    """
    if name not in BASELINES:
        raise R2T2Error(f"unknown baseline {name!r}; choose one of {', '.join(BASELINES)}")
    return BASELINES[name](preset)


__all__ = ["BASELINES", "AtlasEnsemble", "Baseline", "InContext", "NeighborVote", "Warmup", "baseline"]
