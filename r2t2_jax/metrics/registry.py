"""The metrics by name. A metric scores one predicted text for one sample in [0, 1]; 0.5 and more counts as correct."""

from __future__ import annotations

from collections.abc import Callable

from r2t2_jax.contract import Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics.exact_match import exact_match

Metric = Callable[[str, Sample], float]

METRICS: dict[str, Metric] = {"exact_match": exact_match}


def get_metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        R2T2Error: unknown name.
    """
    if name not in METRICS:
        raise R2T2Error(f"unknown metric {name!r}; choose one of {', '.join(METRICS)}")
    return METRICS[name]
