"""Metrics: scores of one answer and of a whole dataset, by name."""

from r2t2_jax.metrics.registry import (
    METRICS,
    SET_SCORES,
    Metric,
    SetScore,
    check_samples,
    describe_metric,
    get_metric,
    get_set_score,
    needs_of_metric,
)

__all__ = [
    "METRICS",
    "SET_SCORES",
    "Metric",
    "SetScore",
    "check_samples",
    "describe_metric",
    "get_metric",
    "get_set_score",
    "needs_of_metric",
]
