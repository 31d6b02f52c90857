"""MEMO, TPT and CoTTA: descent on the entropy of the prediction averaged over augmented images, or toward it.

Axis letters: V views, H selected views, A answer tokens, W vocabulary, S steps, Z rows of coordinates, E experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from r2t2_jax.contract import Answer, Features, Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
from r2t2_jax.method.search.gradient_descent import OPTIMIZERS, GradientDescent, learning_rates
from r2t2_jax.method.search.problem import RoutingProblem, SearchResult
from r2t2_jax.method.strategies import Strategy, descent_of
from r2t2_jax.rivals.entropy import answer_entropy, entropy, mean_over_answer, token_logprobs
from r2t2_jax.routing import Routing, UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class AugmentationSettings:
    """Number of views of an image, the image itself included."""

    views: int = 16


@dataclass(frozen=True)
class TptSettings:
    """Number of views of lowest entropy that are used."""

    selected_views: int = 2


@register_pytree_dataclass
@dataclass(frozen=True)
class MarginalEntropy(Objective):
    """L(r) = H(mean over views a of p_r(x_a)).

    MEMO (Zhang et al. 2022, arXiv 2110.09506, equation 2) averages over all views. TPT (Shu et al. 2022, arXiv
    2209.07511, equation 4; code: azshue/TPT) averages over the tenth of 64 views with the lowest entropy of the
    untouched model. Departures: r moves instead of all weights (MEMO) or a prompt (TPT); all views share one r; and
    there are fewer views, with changes that keep answers about color, place, and number (`rivals/augmentations.py`).
    """

    max_new_tokens: int = field(metadata={"static": True})
    views: int = field(metadata={"static": True})
    selected: int | None = field(default=None, metadata={"static": True})

    needs = frozenset({Need.TOKEN_LOGPROBS, Need.VIEWS})
    augmentations = "views"

    def __post_init__(self) -> None:
        if self.views < 1 or not 1 <= (self.selected or self.views) <= self.views:
            raise R2T2Error(
                f"{self.selected or self.views} views selected of {self.views}; it must be between 1 and all"
            )

    @property
    def num_augmentations(self) -> int:
        return self.views

    @property
    def prepare_forwards(self) -> int:
        """One pass for the answer, and one per view to select among views."""
        return 1 + (self.views if self.selected is not None else 0)

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)
        views = query.views
        if self.selected is not None:
            entropies = jax.vmap(lambda view: answer_entropy(model, params, view, None, answer))(views)  # [V]
            lowest = jax.lax.top_k(-entropies, self.selected)[1]  # the first of equal ones
            views = jax.tree.map(lambda leaf: leaf[lowest], views)
        return partial(_marginal, model, params, views, answer)

    def forwards(self, references: References | None) -> int:
        return self.views if self.selected is None else self.selected


def _marginal(
    model: RoutedLoss, params: Params, views: Features, answer: Answer, routing: Routing | None
) -> Float[Array, ""]:
    def logprobs_of(view: Features) -> tuple[Float[Array, "A W"], Bool[Array, "A"]]:
        return token_logprobs(model, params, view, routing, answer)

    logprobs, masks = jax.vmap(logprobs_of)(views)  # [H, A, W], [H, A]
    return mean_over_answer(entropy(_mean(logprobs)), masks[0])


def _mean(logprobs: Float[Array, "H A W"]) -> Float[Array, "A W"]:
    """The logarithm of the mean probability over views."""
    return jax.nn.logsumexp(logprobs, axis=0) - math.log(logprobs.shape[0])


@dataclass(frozen=True)
class CottaSettings:
    """Probability with which a coordinate returns to its start after a step."""

    restore: float = 0.01


@register_pytree_dataclass
@dataclass(frozen=True)
class TeacherCrossEntropy(Objective):
    """L(r) = - sum_w q_w ln p_r,w with q the mean over views of the untouched model's prediction.

    CoTTA (Wang et al. 2022, arXiv 2203.13591, equations 1 to 5; code: qinenergy/cotta). Departures: r moves instead of
    all weights; the teacher keeps the router's weights, where the source's teacher is a moving average (0.999) of the
    student, which ten steps change by one percent; q is always averaged over views, where the source does so if it is
    not confident; and views change little, as in `MarginalEntropy`.
    """

    max_new_tokens: int = field(metadata={"static": True})
    views: int = field(metadata={"static": True})

    needs = frozenset({Need.TOKEN_LOGPROBS, Need.VIEWS})
    augmentations = "views"

    @property
    def num_augmentations(self) -> int:
        return self.views

    @property
    def prepare_forwards(self) -> int:
        """One pass for the answer, one for the teacher's prediction on each view."""
        return 1 + self.views

    def prepare(self, model: RoutedLoss, params: Params, query: Query, references: References | None) -> Loss:
        answer = greedy_answer(model, params, query, self.max_new_tokens)

        def logprobs_of(view: Features) -> Float[Array, "A W"]:
            return token_logprobs(model, params, view, None, answer)[0]

        teacher = jnp.exp(_mean(jax.vmap(logprobs_of)(query.views)))  # [A, W]

        def loss(routing: Routing | None) -> Float[Array, ""]:
            student, mask = token_logprobs(model, params, query.features, routing, answer)
            return mean_over_answer(-(teacher * student).sum(axis=-1), mask)

        return loss

    def forwards(self, references: References | None) -> int:
        return 1


@register_pytree_dataclass
@dataclass(frozen=True)
class RestoringDescent:
    """Gradient descent after whose steps each coordinate returns to its start with a probability p.

    CoTTA's stochastic restore: r <- M r0 + (1 - M) r with M ~ Bernoulli(p), for every weight and step.
    """

    descent: GradientDescent = field(default_factory=GradientDescent)
    restore: float = 0.01  # p

    uses_router = True
    needs = GradientDescent.needs

    def __post_init__(self) -> None:
        if isinstance(self.restore, int | float) and not 0 <= self.restore <= 1:
            raise R2T2Error(f"cotta.restore {self.restore}; a probability must be between 0 and 1")

    def __call__(self, problem: RoutingProblem, key: Key[Array, ""]) -> SearchResult:
        optimizer, start = OPTIMIZERS[self.descent.optimizer](), problem.start()
        steps = self.descent.steps
        Carry = tuple[Float[Array, "Z E"], optax.OptState]

        def step(
            carry: Carry, inputs: tuple[Float[Array, ""], Key[Array, ""]]
        ) -> tuple[Carry, tuple[Float[Array, ""], Float[Array, "Z E"]]]:
            (point, state), (rate, key) = carry, inputs
            loss, gradient = jax.value_and_grad(problem.value)(point)
            direction, state = optimizer.update(gradient, state)
            moved = problem.retract(point - rate.astype(point.dtype) * direction)
            restored = jax.random.bernoulli(key, self.restore, point.shape)
            point = problem.retract(jnp.where(restored, start, moved))
            return (point, state), (loss, point)

        inputs = learning_rates(self.descent.schedule, steps), jax.random.split(key, steps)
        _, (losses, points) = jax.lax.scan(step, (start, optimizer.init(start)), inputs)
        path = jnp.concatenate([start[None], points])  # [S + 1, Z, E]
        return SearchResult(path, losses, {}, evaluations=2 * steps * problem.forwards_per_eval)


def cotta(
    descent: DescentSettings,
    generation: GenerationSettings,
    augmentation: AugmentationSettings,
    cotta: CottaSettings,
    space: UpdateSpace,
) -> Strategy:
    """Descent toward the mean answer over image augmentations, with random restoration of router weights."""
    objective = TeacherCrossEntropy(generation.max_new_tokens, augmentation.views)
    return Strategy(
        "cotta", objective=objective, search=RestoringDescent(descent_of(descent), cotta.restore), space=space
    )


def memo(
    descent: DescentSettings, generation: GenerationSettings, augmentation: AugmentationSettings, space: UpdateSpace
) -> Strategy:
    """Entropy minimization of the mean answer over image augmentations."""
    objective = MarginalEntropy(generation.max_new_tokens, augmentation.views)
    return Strategy("memo", objective=objective, search=descent_of(descent), space=space)


def tpt(
    descent: DescentSettings,
    generation: GenerationSettings,
    augmentation: AugmentationSettings,
    tpt: TptSettings,
    space: UpdateSpace,
) -> Strategy:
    """As memo, over the augmentations with the most confident answers."""
    objective = MarginalEntropy(generation.max_new_tokens, augmentation.views, tpt.selected_views)
    return Strategy("tpt", objective=objective, search=descent_of(descent), space=space)
