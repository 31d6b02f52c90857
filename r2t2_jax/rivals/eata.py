"""EATA: descent on the entropy of reliable samples, near the router's weights.

Axis letters: L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, effective_weights, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.strategies import Strategy, descent_of
from r2t2_jax.rivals.entropy import EntropySettings, answer_entropy
from r2t2_jax.routing import TINY, Routing, UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class EataSettings:
    """Lambda of the divergence from the router's weights."""

    proximal_weight: float = 1.0


@register_pytree_dataclass
@dataclass(frozen=True)
class ReliableEntropy(Objective):
    """L(r) = w H(p_r) + lambda KL(r || r0) with w = [H0 < E0] exp(E0 - H0), H0 the untouched model's entropy.

    EATA (Niu et al. 2022, arXiv 2204.02610, equations 2 to 4 and 8; code: mr-eggplant/EATA). A sample of high entropy
    keeps the router's weights: w is zero, and r0 minimizes the divergence. Departures: the source's penalty on weights
    that mattered in training (Fisher information) becomes the divergence from the router's own r, a mean over layers;
    its filter of samples like earlier ones (cosine) is left out, since no sample may depend on others here; w is fixed
    at r0, where the source's only step is taken; and E0, ln(C) / 2 - 1 for ImageNet, is a setting.
    """

    max_new_tokens: int = field(metadata={"static": True})
    margin: float = EntropySettings.margin  # E0 in nats
    proximal_weight: float = 1.0  # lambda

    needs = frozenset({Need.TOKEN_LOGPROBS})
    prepare_forwards = 2
    reads_weights = True

    def __post_init__(self) -> None:
        if isinstance(self.proximal_weight, int | float) and self.proximal_weight < 0:
            raise R2T2Error(f"eata proximal weight {self.proximal_weight}; it must not be negative")

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        first = answer_entropy(model, params, query.features, None, answer)
        weight = jnp.where(first < self.margin, jnp.exp(self.margin - first), 0.0)

        def loss(routing: Routing | None) -> Float[Array, ""]:
            value = answer_entropy(model, params, query.features, routing, answer)
            weights = effective_weights(model, params, query, routing)
            return weight * value + self.proximal_weight * divergence(weights, query.routing)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


def divergence(weights: Float[Array, "L E"], router: Float[Array, "L E"]) -> Float[Array, ""]:
    """KL(r || r0), the mean over layers; weights are clipped below at `TINY`."""
    p, q = jnp.maximum(weights, TINY), jnp.maximum(router, TINY)
    return (p * jnp.log(p / q)).sum(axis=-1).mean()


def eata(
    descent: DescentSettings,
    generation: GenerationSettings,
    entropy: EntropySettings,
    eata: EataSettings,
    space: UpdateSpace,
) -> Strategy:
    """As tent, on reliable samples only, with a penalty on the distance from the router's weights."""
    objective = ReliableEntropy(generation.max_new_tokens, entropy.margin, eata.proximal_weight)
    return Strategy("eata", objective=objective, search=descent_of(descent), space=space)
