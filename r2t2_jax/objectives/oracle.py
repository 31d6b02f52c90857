"""The oracle loss: how well r answers the test question itself. It reads the label, so it is a bound and no method."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, Reroutable
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import Routing


@register_structure
@dataclass(frozen=True)
class Oracle:
    """L(r) = l(f(x, r), y) (R2-T2, equation 2)."""

    def __call__(
        self, model: Reroutable, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        return model.answer_loss(params, query.features, routing, query.answer)

    def forwards(self, references: References | None) -> int:
        return 1
