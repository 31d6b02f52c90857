"""Scoring of one answer, by name."""

from r2t2_jax.metrics.registry import METRICS, Metric, get_metric

__all__ = ["METRICS", "Metric", "get_metric"]
