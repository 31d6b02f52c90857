"""The same neighbours as examples in the prompt.

Axis letters: B test samples, K neighbours, L routed layers, E experts, A answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Inputs, Params, Port, RoutedModel, Sample
from r2t2_jax.errors import R2T2Error
from r2t2_jax.rivals.base import Asked, OfNeighbors, reply
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class InContext(OfNeighbors):
    """The neighbours' questions and answers, the nearest last, stand before the question; their images do not.

    Retrieval of examples for in-context learning (Liu et al. 2022, "What makes good in-context examples for GPT-3?").
    One pass, over a longer prompt.
    """

    name: str = field(default="in_context", metadata={"static": True})

    def answer(self, asked: Asked) -> dict[str, Any]:
        """As `Baseline.answer`."""
        port = asked.port
        prompted = [
            dataclasses.replace(sample, question=with_examples(sample.question, records))
            for sample, records in zip(asked.samples, asked.neighbors, strict=True)
        ]
        _refuse_cut(port, prompted)
        inputs = port.processor.prepare(port.params, prompted)
        tokens, weights = _answer(port.params, inputs, model=port.model, max_new_tokens=port.max_new_tokens)
        return reply(asked, 1, weights, tokens)


def with_examples(question: str, neighbors: Sequence[Mapping[str, Any]]) -> str:
    """`neighbors` come the nearest first."""
    examples = [f"{record['question']} {record['answer']}\n" for record in reversed(neighbors)]
    return "".join([*examples, question])


def _refuse_cut(port: Port, prompted: Sequence[Sample]) -> None:
    """What is cut off a prompt is its end, the question that is asked."""
    fits = getattr(port.processor, "fits", lambda question: True)
    for sample in prompted:
        if not fits(sample.question):
            words = len(sample.question.split())
            raise R2T2Error(f"{port.name} cannot read {words} words, examples and question: it cannot learn in context")


@partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def _answer(
    params: Params, inputs: Inputs, *, model: RoutedModel, max_new_tokens: int
) -> tuple[Int[Array, "B A"], Float[Array, "B L E"]]:
    def sample(one: Inputs) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        features = model.encode(params, one)
        return model.generate(params, features, None, max_new_tokens), model.route(params, features)

    return jax.lax.map(sample, inputs)
