"""TENT: descent on the entropy of the model's answer."""

from __future__ import annotations

from dataclasses import dataclass, field

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.strategies import Strategy, descent_of
from r2t2_jax.rivals.entropy import answer_entropy
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class Entropy(Objective):
    """L(r) = H(p_r) (TENT, Wang et al. 2021, arXiv 2006.10726, equation 2).

    Departures: r moves instead of the gains of the normalization layers; each sample starts from the router's weights,
    where the source adapts to a stream; p_r is over the whole vocabulary, and its entropy is averaged over the tokens
    of the untouched model's answer.
    """

    max_new_tokens: int = field(metadata={"static": True})

    needs = frozenset({Need.TOKEN_LOGPROBS})
    prepare_forwards = 1

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        return lambda routing: answer_entropy(model, params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


def tent(descent: DescentSettings, generation: GenerationSettings, space: UpdateSpace) -> Strategy:
    """Entropy minimization of the model's own answer."""
    return Strategy("tent", objective=Entropy(generation.max_new_tokens), search=descent_of(descent), space=space)
