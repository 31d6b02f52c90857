"""The neighbourhood loss: how well r answers similar questions whose answers are known.

Axis letters: K neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r2t2_jax.contract import Answer, Features, Params, Query, References, Reroutable
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import Routing


@register_structure
@dataclass(frozen=True)
class Neighborhood:
    """L(r) = sum_i K(x_i, x) l(f(x_i, r), y_i) / sum_i K(x_i, x) (R2-T2, equation 3).

    The *test sample's* r goes into every neighbour's forward pass. Where no neighbour has any weight L is zero.
    """

    def __call__(
        self, model: Reroutable, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        assert references is not None
        assert references.weights is not None

        def loss(features: Features, answer: Answer) -> Float[Array, ""]:
            return model.answer_loss(params, features, routing, answer)

        losses = jax.vmap(loss)(references.features, references.answers)  # [K]
        weights = references.weights
        total = weights.sum()
        # A neighbour of weight zero is left out, not multiplied by zero: its loss may be infinite.
        weighted = jnp.where(weights > 0, weights * losses, 0.0).sum()
        return weighted / jnp.where(total > 0, total, 1.0)

    def forwards(self, references: References | None) -> int:
        """Each value takes one forward pass a neighbour, padded ones too."""
        assert references is not None
        assert references.weights is not None
        return references.weights.shape[-1]
