"""Why right answers turned wrong: for each of them the first cause that applies, by a fixed rule.

Axis letters: B test samples, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from r2t2_jax.reporting.markup import Html, joined, scrolling, tag
from r2t2_jax.reporting.results import ModelResults, StrategyRows
from r2t2_jax.reporting.wording import count, shortened

FAR = 0.1  # of all questions: those whose nearest neighbour is least alike
LISTED = 12
CAUSES = {  # in the order in which they are tried
    "no neighbour": "No reference weighed anything, or the strategy has no neighbours.",
    "far neighbours": "The nearest neighbour is less alike than for nine questions of ten.",
    "another family": "Most of the neighbours' weight lies on questions of other families.",
    "nothing learnt": "The neighbours' loss did not fall: there was nothing to follow.",
    "misled": "The neighbours' loss fell and the question's own rose: what helped them harms it.",
    "tipped over": "Both losses fell, yet another word came out on top.",
    "unexplained": "The run does not say enough: no losses along the path.",
}


def cause_rows(results: ModelResults) -> list[dict[str, Any]]:
    """A row for each answer that turned wrong: the question, both answers, the cause."""
    explained = results.explained
    if explained is None:
        return []
    lost = np.flatnonzero(results.base.right & ~explained.right)
    far = _far(explained)
    return [
        {
            "id": results.ids[i],
            "family": results.categories[i],
            "question": results.questions[i],
            "expected": results.answers[i][0] if results.answers[i] else "",
            "before": results.base.predictions[i],
            "after": explained.predictions[i],
            "cause": _cause(results, explained, i, bool(far[i])),
        }
        for i in lost.tolist()
    ]


def _far(explained: StrategyRows) -> Bool[np.ndarray, "B"]:
    if not explained.similarities.shape[1]:
        return np.zeros(len(explained.right), bool)
    nearest = explained.similarities.max(axis=1)
    return nearest < np.quantile(nearest, FAR)


def _cause(results: ModelResults, explained: StrategyRows, i: int, far: bool) -> str:
    if explained.fell_back[i] or not explained.neighbors[i]:
        return "no neighbour"
    if far:
        return "far neighbours"
    if _foreign_share(results, explained, i) > 0.5:
        return "another family"
    if explained.losses.shape[1] < 2 or explained.own_losses.shape[1] < 2:
        return "unexplained"
    if explained.losses[i, -1] >= explained.losses[i, 0]:
        return "nothing learnt"
    return "misled" if explained.own_losses[i, -1] > explained.own_losses[i, 0] else "tipped over"


def _foreign_share(results: ModelResults, explained: StrategyRows, i: int) -> float:
    """The share of the kernel's weight on neighbours whose family is known and is not the question's."""
    weights, own = explained.kernel_weights[i], results.categories[i]
    families = [results.references.get(name, {}).get("category") for name in explained.neighbors[i]]
    foreign = np.array([bool(family) and bool(own) and family != own for family in families])
    return float(weights[foreign].sum() / weights.sum()) if weights.sum() > 0 else 0.0


def causes(results: ModelResults, rows: list[dict[str, Any]]) -> Html | None:
    """How often each cause, and the first cases of each."""
    if not rows:
        return None
    counts = {cause: sum(row["cause"] == cause for row in rows) for cause in CAUSES}
    terms = [
        joined(tag("dt", f"{cause}: {number:,}"), tag("dd", CAUSES[cause]))
        for cause, number in counts.items()
        if number
    ]
    head = [tag("th", title, scope="col") for title in ("cause", "family", "question", "expected", "after")]
    shown = sorted(rows, key=lambda row: list(CAUSES).index(row["cause"]))
    first = [row for cause in CAUSES for row in [one for one in shown if one["cause"] == cause][:4]][:LISTED]
    body = [
        tag(
            "tr",
            *(tag("td", shortened(str(row[key]), 90)) for key in ("cause", "family", "question", "expected", "after")),
        )
        for row in first
    ]
    return tag(
        "section",
        tag("h3", "Right answers that turned wrong, with a cause"),
        tag(
            "p",
            f"{count(len(rows), 'answer').capitalize()} turned wrong. Each has the first of these causes that applies; "
            f"{len(first):,} are listed, all of them in the CSV file beside this page.",
        ),
        tag("dl", *terms),
        scrolling(
            tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body), class_="causes"),
            f"Answers that turned wrong on {results.name}",
        ),
        class_="causes",
    )
