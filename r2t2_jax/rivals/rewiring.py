"""Rewiring Experts on the Fly: the model's own answer as its label."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.search.gradient_descent import Fixed, GradientDescent
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class RewiringSettings:
    """Steps of descent in the shift space, at a fixed learning rate."""

    learning_rate: float = 0.05
    steps: int = 5


@register_pytree_dataclass
@dataclass(frozen=True)
class SelfCrossEntropy(Objective):
    """L(r) = l(f(x, r), y0) with y0 the untouched model's own answer.

    Rewiring Experts on the Fly (Su et al. 2025, arXiv 2510.14853): a vector added to each layer's router logits is
    fitted to the text so far, five steps at 0.05. Departures: the prompt's own tokens are not part of the loss, because
    the contract does not offer them; answers here are shorter than the 128 tokens after which the source fits again;
    and all layers move, where the source chooses some by the router's confidence.
    """

    max_new_tokens: int = field(metadata={"static": True})

    needs = frozenset({Need.GENERATE})
    prepare_forwards = 1

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        return lambda routing: model.answer_loss(params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


def rewiring(
    descent: DescentSettings, generation: GenerationSettings, rewiring: RewiringSettings, space: UpdateSpace
) -> Strategy:
    """Shift of the router's logits that makes the model's own answer more likely."""
    return Strategy(
        "rewiring",
        objective=SelfCrossEntropy(generation.max_new_tokens),
        search=GradientDescent(Fixed(rewiring.learning_rate), descent.optimizer, rewiring.steps),
        space=replace(space, kind="shift"),
    )
