"""Why right answers turned wrong: the first cause that applies, from what the run recorded of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.reporting.results import ModelResults, StrategyRows

DISTANT_SHARE = 0.1  # of all questions: those with the least similar nearest neighbor
LISTED_PER_CAUSE, LISTED = 4, 12
CAUSES = {  # in the order in which they are tested
    "no neighbor": "No reference has any kernel weight, or the strategy has no neighbors.",
    "distant neighbors": "The nearest neighbor is less similar than for 90 % of the questions.",
    "other family": "More than half of the kernel weight lies on references of other families.",
    "loss did not decrease": "The neighbors' loss did not decrease, so the search had no direction to follow.",
    "misleading neighbors": "The neighbors' loss decreased while the question's own loss increased.",
    "competing answer": "Both losses decreased, but another answer became the most likely one.",
    "unexplained": "The run did not record the losses along the path.",
}


def failure_causes(results: ModelResults) -> list[dict[str, Any]]:
    """One row for each answer that turned wrong: id, family, question, expected answer, both answers, cause."""
    explained = results.explained
    if explained is None:
        return []
    failed = np.flatnonzero(results.base.right & ~explained.right)
    distant = _has_distant_neighbors(explained)
    return [
        {
            "id": results.ids[i],
            "family": results.categories[i],
            "question": results.questions[i],
            "expected": results.answers[i][0] if results.answers[i] else "",
            "before": results.base.predictions[i],
            "after": explained.predictions[i],
            "cause": _cause(results, explained, i, bool(distant[i])),
        }
        for i in failed.tolist()
    ]


def first_of_each_cause(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `LISTED` rows, at most `LISTED_PER_CAUSE` of each cause, in the order of `CAUSES`."""
    by_cause = {cause: [row for row in rows if row["cause"] == cause] for cause in CAUSES}
    return [row for group in by_cause.values() for row in group[:LISTED_PER_CAUSE]][:LISTED]


def count_causes(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The number of rows of each cause that occurs, in the order of `CAUSES`."""
    counts = {cause: sum(row["cause"] == cause for row in rows) for cause in CAUSES}
    return {cause: n for cause, n in counts.items() if n}


def _has_distant_neighbors(explained: StrategyRows) -> Bool[np.ndarray, "B"]:
    if not explained.similarities.shape[1]:
        return np.zeros(len(explained.right), bool)
    nearest = explained.similarities.max(axis=1)
    return nearest < np.quantile(nearest, DISTANT_SHARE)


def _cause(results: ModelResults, explained: StrategyRows, i: int, distant: bool) -> str:
    if explained.used_fallback[i] or not explained.neighbors[i]:
        return "no neighbor"
    if distant:
        return "distant neighbors"
    if _weight_on_other_families(results, explained, i) > 0.5:
        return "other family"
    if explained.losses.shape[1] < 2 or explained.own_losses.shape[1] < 2:
        return "unexplained"
    if explained.losses[i, -1] >= explained.losses[i, 0]:
        return "loss did not decrease"
    return "misleading neighbors" if explained.own_losses[i, -1] > explained.own_losses[i, 0] else "competing answer"


def _weight_on_other_families(results: ModelResults, explained: StrategyRows, i: int) -> float:
    """The share of the kernel weight on neighbors whose family is known and differs from the question's."""
    weights, own = explained.kernel_weights[i], results.categories[i]
    families = [results.references.get(name, {}).get("category") for name in explained.neighbors[i]]
    differs = np.array([bool(family) and bool(own) and family != own for family in families])
    return float(weights[differs].sum() / weights.sum()) if weights.sum() > 0 else 0.0
