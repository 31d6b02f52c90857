"""The model's own words as labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from r2t2_jax.contract import Params, Query, References, Reroutable
from r2t2_jax.objectives.anchored import Anchored, Loss, own_answer
from r2t2_jax.pytrees import register_structure


@register_structure
@dataclass(frozen=True)
class SelfCrossEntropy(Anchored):
    """L(r) = l(f(x, r), y0) with y0 the untouched model's own answer.

    Rewiring Experts on the Fly (Su et al. 2025, arXiv 2510.14853): a vector added to each layer's router logits is
    fitted to the text so far, five steps at 0.05. Departures: the prompt's own words are no part of the loss, which the
    contract does not offer; answers here are shorter than the 128 tokens after which the source fits again; and all
    layers move, where the source chooses some by the router's confidence.
    """

    max_new_tokens: int = field(metadata={"static": True})

    anchor_forwards = 1

    def anchored(self, model: Reroutable, params: Params, query: Query, references: References | None) -> Loss:
        answer = own_answer(model, params, query, self.max_new_tokens)
        return lambda routing: model.answer_loss(params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1
