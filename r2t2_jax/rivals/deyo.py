"""DeYO: descent on the entropy of samples whose answer depends on the shape of objects."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.strategies import Strategy, descent_of
from r2t2_jax.rivals.entropy import EntropySettings, answer_entropy
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass

LIMIT = 1.25  # times E0: the source filters at 0.5 ln C and weights from E0 = 0.4 ln C


@dataclass(frozen=True)
class DeyoSettings:
    """Threshold of the drop in the answer's probability if the image's patches are shuffled."""

    threshold: float = 0.2


@register_pytree_dataclass
@dataclass(frozen=True)
class DeYOEntropy(Objective):
    """L(r) = w H(p_r), w = [H0 < 1.25 E0] [D > threshold] (exp(E0 - H0) + exp(D)).

    D = p(y|x) - p(y|x') with x' the image with shuffled patches: DeYO (Lee et al. 2024, arXiv 2403.07366). Departures:
    r moves instead of the gains of the normalization layers; y is the untouched model's answer, whose probability is
    the geometric mean over its tokens; w is fixed at r0, where the source's only step is taken.
    """

    max_new_tokens: int = field(metadata={"static": True})
    margin: float = EntropySettings.margin  # E0 in nats
    threshold: float = 0.2

    needs = frozenset({Need.TOKEN_LOGPROBS, Need.SHUFFLED})
    augmentations = "shuffled"
    prepare_forwards = 3

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        first = answer_entropy(model, params, query.features, None, answer)
        whole, shuffled = (
            jnp.exp(-model.answer_loss(params, features, None, answer)) for features in (query.features, query.shuffled)
        )
        drop = whole - shuffled
        weight = jnp.exp(self.margin - first) + jnp.exp(drop)
        weight = jnp.where((first < LIMIT * self.margin) & (drop > self.threshold), weight, 0.0)
        return lambda routing: weight * answer_entropy(model, params, query.features, routing, answer)

    def forwards(self, references: References | None) -> int:
        return 1


def deyo(
    descent: DescentSettings,
    generation: GenerationSettings,
    entropy: EntropySettings,
    deyo: DeyoSettings,
    space: UpdateSpace,
) -> Strategy:
    """As tent, on samples whose answer changes when image patches are shuffled."""
    objective = DeYOEntropy(generation.max_new_tokens, entropy.margin, deyo.threshold)
    return Strategy("deyo", objective=objective, search=descent_of(descent), space=space)
