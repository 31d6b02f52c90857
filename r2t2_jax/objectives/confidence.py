"""The confidence loss: how surprised the model is by its own greedy answer. It needs neither label nor references.

Axis letters: A answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Array, Float

from r2t2_jax.contract import Params, Query, References, Reroutable, RoutedModel
from r2t2_jax.pytrees import register_structure
from r2t2_jax.routing import Routing


@register_structure
@dataclass(frozen=True)
class Confidence:
    """L(r) = l(f(x, r), y(r)) with y(r) the model's own greedy answer under r, of at most `max_new_tokens` tokens."""

    max_new_tokens: int = field(metadata={"static": True})

    def __call__(
        self, model: Reroutable, params: Params, query: Query, references: References | None, routing: Routing | None
    ) -> Float[Array, ""]:
        if not isinstance(model, RoutedModel):
            raise TypeError("the confidence loss needs a model that can generate, not an answer loss alone")
        tokens = model.generate(params, query.features, routing, self.max_new_tokens)  # [A]
        return model.answer_loss(params, query.features, routing, model.as_answer(tokens))

    def forwards(self, references: References | None) -> int:
        """One pass to generate, one to score."""
        return 2
