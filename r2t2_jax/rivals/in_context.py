"""In-context learning: the same neighbors as examples in the prompt.

Axis letters: B test samples, K neighbors, L routed layers, E experts, A answer tokens.
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
from r2t2_jax.method.forward import generate_answer
from r2t2_jax.method.presets import NeighborhoodSettings
from r2t2_jax.method.strategies import kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.rivals.base import BaselineBatch, NeighborBaseline, baseline_result
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class InContext(NeighborBaseline):
    """The neighbors' questions and answers, without their images, precede the question; the nearest comes last.

    Retrieval of examples for in-context learning (Liu et al. 2022, "What makes good in-context examples for GPT-3?").
    One pass, over a longer prompt.
    """

    name: str = field(default="in_context", metadata={"static": True})

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`."""
        port = batch.port
        prompted = [
            dataclasses.replace(sample, question=with_examples(sample.question, records))
            for sample, records in zip(batch.samples, batch.neighbors, strict=True)
        ]
        _check_length(port, prompted)
        inputs = port.processor.prepare(port.params, prompted)
        tokens, weights = _answer(
            port.params, inputs, model=port.model, max_new_tokens=port.max_new_tokens, beams=port.beams
        )
        return baseline_result(batch, 1, weights, tokens)


def in_context(neighborhood: NeighborhoodSettings) -> InContext:
    """The neighbors' questions and answers as in-context examples in the prompt."""
    return InContext(selector=NearestNeighbors(neighborhood.k), kernel=kernel_of(neighborhood))


def with_examples(question: str, neighbors: Sequence[Mapping[str, Any]]) -> str:
    """The question after its examples; `neighbors` are ordered, the nearest first."""
    examples = [f"{record['question']} {record['answer']}\n" for record in reversed(neighbors)]
    return "".join([*examples, question])


def _check_length(port: Port, prompted: Sequence[Sample]) -> None:
    """Refuse prompts that the processor would cut: it cuts their end, which is the question."""
    fits = getattr(port.processor, "fits", lambda question: True)
    for sample in prompted:
        if not fits(sample.question):
            words = len(sample.question.split())
            raise R2T2Error(
                f"{port.name} cannot read {words} words of examples and question: in_context is not possible; "
                "lower neighborhood.k"
            )


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "beams"))
def _answer(
    params: Params, inputs: Inputs, *, model: RoutedModel, max_new_tokens: int, beams: int
) -> tuple[Int[Array, "B A"], Float[Array, "B L E"]]:
    def answer_sample(inputs: Inputs) -> tuple[Int[Array, "A"], Float[Array, "L E"]]:
        """The answer tokens of one sample and its routing weights."""
        features = model.encode(params, inputs)
        answer = generate_answer(model, params, features, None, max_new_tokens, beams)
        return answer, model.route(params, features)

    return jax.lax.map(answer_sample, inputs)
