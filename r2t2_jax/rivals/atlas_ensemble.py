"""An ensemble of the best points of the loss atlas.

Axis letters: B test samples, H members of the ensemble, G atlas points, L routed layers, E experts, A answer tokens,
C candidate answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Features, Params, Query, References, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import generate_answer
from r2t2_jax.method.kernels import Gaussian, Kernel
from r2t2_jax.method.presets import AtlasSettings, NeighborhoodSettings
from r2t2_jax.method.search.atlas_points import neighborhood_losses, squared_distance
from r2t2_jax.method.strategies import AtlasConfig, kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors, Selector
from r2t2_jax.rivals.base import BaselineBatch, baseline_result
from r2t2_jax.routing import Routing, restrict
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasEnsemble:
    """The candidate with the highest probability, averaged over the atlas's `members` best points.

    The candidates are the members' own greedy answers. Points are ranked as in the strategy `atlas`, by L(r_g) +
    lambda |r_g - r0|^2, and have the same softmax weights in the average: an average with equal weights over eight of
    G = 16 points would hardly depend on the losses. Each member generates once and scores all candidates once: two
    evaluations.
    """

    name: str = field(default="atlas_top8", metadata={"static": True})
    selector: Selector = field(default_factory=lambda: NearestNeighbors(20))
    kernel: Kernel = field(default_factory=Gaussian)
    atlas: AtlasConfig = field(default_factory=lambda: AtlasConfig("neighbors"))
    temperature: float = 0.02
    proximal_weight: float = 0.1  # lambda
    members: int = field(default=8, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.members < 1:
            raise R2T2Error(f"an ensemble of {self.members} members; it must be at least 1")

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`; the weights are the members' mean."""
        port = batch.port
        tokens, weights = ensemble_answers(
            self,
            port.params,
            batch.queries,
            batch.references,
            model=port.model,
            max_new_tokens=port.max_new_tokens,
            beams=port.beams,
        )
        assert batch.references.points is not None
        return baseline_result(batch, self.evaluations(len(batch.references.points)), weights, tokens)

    def evaluations(self, points: int) -> int:
        """r-dependent forward passes per sample, including the router's own."""
        return 1 + 2 * min(self.members, points)


def atlas_ensemble(neighborhood: NeighborhoodSettings, atlas: AtlasSettings) -> AtlasEnsemble:
    """Ensemble of answers at the eight best points of the loss atlas."""
    return AtlasEnsemble(
        selector=NearestNeighbors(atlas.k),
        kernel=kernel_of(neighborhood),
        atlas=AtlasConfig("neighbors", atlas.loss),
        temperature=atlas.temperature,
        proximal_weight=atlas.proximal_weight,
    )


AnswersAndWeights = tuple[Int[Array, "B A"], Float[Array, "B L E"]]


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "beams"))
def ensemble_answers(
    ensemble: AtlasEnsemble,
    params: Params,
    queries: Query,
    references: References,
    *,
    model: RoutedModel,
    max_new_tokens: int,
    beams: int = 1,
) -> AnswersAndWeights:
    """Answer tokens of a batch, and the weighted mean of the members' routings.

    Args:
        ensemble: the number of members and how they are chosen.
        params: every array of the model.
        queries: every leaf with a leading axis B.
        references: from `ReferenceBank.atlas_references`.
        model: hashable.
        max_new_tokens: of an answer.
        beams: of the beam search; 1 for greedy answers.
    """
    points = references.points
    assert points is not None
    members = min(ensemble.members, len(points))

    def answer_sample(sample: tuple[Query, Array, Array]) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        """The likeliest answer of one sample under its members, and the mean of their routing weights."""
        query, weights, losses = sample
        distance = squared_distance(points, query.routing[None])
        # Nothing is fused across the barriers, so that a batch of one, whose loop is unrolled, computes the same bits.
        mean = jax.lax.optimization_barrier(neighborhood_losses(weights, losses))
        costs = mean + ensemble.proximal_weight * distance  # [G]
        best = jax.lax.top_k(-costs, members)[1]
        chosen = restrict(model.spec, points[best], jnp.broadcast_to(query.support, points[best].shape))  # [H, L, E]
        tokens = jax.lax.map(partial(_generate, model, params, query.features, max_new_tokens, beams), chosen)  # [H, A]
        candidates = jax.vmap(model.as_answer)(tokens)  # C = H of them
        logprobs = jax.lax.map(
            lambda r: model.answer_logprobs(params, query.features, Routing(r), candidates), chosen
        )  # [H, C]
        sharpness = jax.lax.optimization_barrier(1 / jnp.asarray(ensemble.temperature, costs.dtype))
        shares = jax.nn.log_softmax(jax.lax.optimization_barrier(-costs[best] * sharpness))  # [H]
        likeliest = jnp.argmax(jax.nn.logsumexp(logprobs + shares[:, None], axis=0))  # the best-ranked of equal ones
        return tokens[likeliest], jnp.tensordot(jnp.exp(shares), chosen, axes=1)

    return jax.lax.map(answer_sample, (queries, references.weights, references.point_losses))


def _generate(
    model: RoutedModel,
    params: Params,
    features: Features,
    max_new_tokens: int,
    beams: int,
    weights: Float[Array, "L E"],
) -> Int[Array, "A"]:
    return generate_answer(model, params, features, Routing(weights), max_new_tokens, beams)
