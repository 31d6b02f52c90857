"""MEMO and TPT: descent on the entropy of the prediction averaged over augmented images.

Axis letters: V views, H selected views, A answer tokens, W vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial

import jax
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import Loss, Objective, greedy_answer
from r2t2_jax.method.presets import DescentSettings, GenerationSettings
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
    mean = jax.nn.logsumexp(logprobs, axis=0) - math.log(logprobs.shape[0])  # [A, W]
    return mean_over_answer(entropy(mean), masks[0])


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
