"""The entropy of what the model says on average of changed copies of the image: MEMO and TPT.

Axis letters: V views, H kept views, A answer tokens, W words of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import jax
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, Reroutable
from r2t2_jax.errors import R2T2Error
from r2t2_jax.objectives.anchored import Anchored, Loss, distribution, entropy, mean_over_answer, own_answer
from r2t2_jax.objectives.entropy import answer_entropy
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import Routing


@register_structure
@dataclass(frozen=True)
class MarginalEntropy(Anchored):
    """L(r) = H(mean over views a of p_r(x_a)).

    MEMO (Zhang et al. 2022, arXiv 2110.09506, equation 2) averages over all views. TPT (Shu et al. 2022, arXiv
    2209.07511, equation 4; code: azshue/TPT) keeps the tenth of 64 views of which the untouched model is surest.
    Departures: r moves instead of all weights (MEMO) or a prompt (TPT); one r is shared by all views; and there are
    fewer views, changed only in ways that leave answers about colour, place and number as they are
    (`evaluation/pictures.py`).
    """

    max_new_tokens: int = field(metadata={"static": True})
    views: int = field(metadata={"static": True})
    kept: int | None = field(default=None, metadata={"static": True})

    pictures = "views"

    def __post_init__(self) -> None:
        if self.views < 1 or not 1 <= (self.kept or self.views) <= self.views:
            raise R2T2Error(f"{self.kept or self.views} views kept of {self.views}; it must be between 1 and all")

    @property
    def anchor_forwards(self) -> int:
        """The answer, and to choose among views one pass each."""
        return 1 + (self.views if self.kept is not None else 0)

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        views = query.views
        if self.kept is not None:
            each = jax.vmap(lambda view: answer_entropy(model, params, view, None, answer))(views)  # [V]
            surest = jax.lax.top_k(-each, self.kept)[1]  # the earlier among equals
            views = jax.tree.map(lambda leaf: leaf[surest], views)
        return partial(_marginal, model, params, views, answer)

    def forwards(self, references: References | None) -> int:
        return self.views if self.kept is None else self.kept


def _marginal(
    model: Reroutable, params: Params, views: Features, answer: Answer, routing: Routing | None
) -> Float[Array, ""]:
    def tell(view: Features) -> tuple[Float[Array, "A W"], Bool[Array, "A"]]:
        return distribution(model, params, view, routing, answer)

    logprobs, masks = jax.vmap(tell)(views)  # [H, A, W], [H, A]
    mean = jax.nn.logsumexp(logprobs, axis=0) - math.log(logprobs.shape[0])  # [A, W]
    return mean_over_answer(entropy(mean), masks[0])
