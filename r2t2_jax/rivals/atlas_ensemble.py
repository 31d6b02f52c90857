"""The answer of several good routings at once, for those who can pay for as many passes.

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
from r2t2_jax.method.kernels import Gaussian, Kernel
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.search.atlas_points import neighborhood_losses, squared_distance
from r2t2_jax.method.strategies import AtlasConfig, kernel_of, reading_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors, Selector
from r2t2_jax.rivals.base import Asked, reply
from r2t2_jax.routing import Routing, restrict
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasEnsemble:
    """The candidate with the highest probability, averaged over the atlas's `members` best points.

    The candidates are the members' own greedy answers. Points are ranked as the strategy `atlas` ranks them, by
    L(r_g) + lambda |r_g - r0|^2, and weighted in the average as it weighs them: with G = 16 an even average over eight
    would give half of all points an equal say. Each member generates once and scores all candidates once: two
    evaluations.
    """

    name: str = field(default="atlas_top8", metadata={"static": True})
    selector: Selector = field(default_factory=lambda: NearestNeighbors(20))
    kernel: Kernel = field(default_factory=Gaussian)
    atlas: AtlasConfig = field(default_factory=lambda: AtlasConfig("neighbors"))
    temperature: float = 0.02
    trust: float = 0.1  # lambda
    members: int = field(default=8, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.members < 1:
            raise R2T2Error(f"an ensemble of {self.members} members; it must be at least 1")

    def answer(self, asked: Asked) -> dict[str, Any]:
        """As `Baseline.answer`; the weights are the members' mean."""
        sizes = {"model": asked.port.model, "max_new_tokens": asked.port.max_new_tokens}
        tokens, weights = answer_together(self, asked.port.params, asked.queries, asked.references, **sizes)
        assert asked.references.points is not None
        return reply(asked, self.evaluations(len(asked.references.points)), weights, tokens)

    def evaluations(self, points: int) -> int:
        """r-dependent passes a case, the router's own included."""
        return 1 + 2 * min(self.members, points)


def atlas_ensemble(preset: Preset) -> AtlasEnsemble:
    """`atlas_top8` with a preset's numbers."""
    kernel = kernel_of(preset)
    return AtlasEnsemble(
        selector=NearestNeighbors(preset.atlas_k),
        kernel=kernel,
        atlas=reading_of(preset),
        temperature=preset.atlas_temperature,
        trust=preset.atlas_trust,
    )


Answered = tuple[Int[Array, "B A"], Float[Array, "B L E"]]


@partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def answer_together(
    ensemble: AtlasEnsemble,
    params: Params,
    queries: Query,
    references: References,
    *,
    model: RoutedModel,
    max_new_tokens: int,
) -> Answered:
    """Answer tokens of a batch, and the weighted mean of the members' routings.

    Args:
        ensemble: how many, and how they are chosen.
        params: every array of the model.
        queries: every leaf with a leading axis B.
        references: from `ReferenceBank.atlas_references`.
        model: hashable.
        max_new_tokens: of an answer.
    """
    points = references.points
    assert points is not None
    members = min(ensemble.members, len(points))

    def sample(one: tuple[Query, Array, Array]) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        query, weights, losses = one
        pull = squared_distance(points, query.routing[None])
        # Nothing is fused across the barriers, so that a batch of one, whose loop is unrolled, computes the same bits.
        mean = jax.lax.optimization_barrier(neighborhood_losses(weights, losses))
        costs = mean + ensemble.trust * pull  # [G]
        best = jax.lax.top_k(-costs, members)[1]
        chosen = restrict(model.spec, points[best], jnp.broadcast_to(query.support, points[best].shape))  # [H, L, E]
        tokens = jax.lax.map(partial(_generate, model, params, query.features, max_new_tokens), chosen)  # [H, A]
        candidates = jax.vmap(model.as_answer)(tokens)  # C = H of them
        logprobs = jax.lax.map(
            lambda r: model.answer_logprobs(params, query.features, Routing(r), candidates), chosen
        )  # [H, C]
        sharpness = jax.lax.optimization_barrier(1 / jnp.asarray(ensemble.temperature, costs.dtype))
        shares = jax.nn.log_softmax(jax.lax.optimization_barrier(-costs[best] * sharpness))  # [H]
        likeliest = jnp.argmax(jax.nn.logsumexp(logprobs + shares[:, None], axis=0))  # the better-ranked among equals
        return tokens[likeliest], jnp.tensordot(jnp.exp(shares), chosen, axes=1)

    return jax.lax.map(sample, (queries, references.weights, references.point_losses))


def _generate(
    model: RoutedModel, params: Params, features: Features, max_new_tokens: int, weights: Float[Array, "L E"]
) -> Int[Array, "A"]:
    return model.generate(params, features, Routing(weights), max_new_tokens)
