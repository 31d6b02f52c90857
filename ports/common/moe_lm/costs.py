"""The cost functions of routed language models: variants of the gradient, from the plain one to the cheapest."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ports.common.moe_lm.features import LMAnswer, LMConditioned, LMFeatures
from ports.common.moe_lm.model import RoutedLM, mean_loss
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing


def costs(model: RoutedLM, params: Any, inputs: Any, answer_tokens: int) -> Costs:
    """The cost functions of a model.

    Args:
        model: its scope decides what depends on r.
        params: as shapes.
        inputs: of one sample, as shapes.
        answer_tokens: of a reference's answer, end of turn included.
    """
    conditioned = CostVariant(
        "condition references",
        "the answer's tokens are run once up to the first routed layer, with the prompt",
        params, _condition(model, answer_tokens), _loss(model),
    )  # fmt: skip
    return Costs(
        inputs,
        None,
        (
            CostVariant(
                "whole forward",
                "every step runs prompt and answer through every layer; gradients with respect to r only",
                params, _unchanged, _whole(model),
            ),
            CostVariant(
                "encode once",
                "the prompt is run once per neighbor; a step runs what depends on r, and the answer",
                params, model.encode, _loss(model),
            ),
            conditioned,
            conditioned.for_all(),
        ),
    )  # fmt: skip


def _unchanged(params: Any, inputs: Any) -> Any:
    return inputs


@cache
def _condition(model: RoutedLM, length: int) -> Any:
    def condition(params: Any, inputs: Any) -> LMConditioned:
        answer = LMAnswer(jnp.zeros(length, jnp.int32), jnp.ones(length, bool))  # which tokens does not change the cost
        return model.condition(params, model.encode(params, inputs), answer)

    return condition


@cache
def _loss(model: RoutedLM) -> Any:
    def loss(r: Float[Array, "L E"], params: Any, kept: LMFeatures | LMConditioned, answer: LMAnswer) -> Any:
        return model.answer_loss(params, kept, Routing(r, support=kept.core), answer)

    return loss


@cache
def _whole(model: RoutedLM) -> Any:
    def loss(r: Float[Array, "L E"], params: Any, inputs: Any, answer: LMAnswer) -> Any:
        return whole_loss(model, params, inputs, Routing(r), answer)

    return loss


def whole_loss(
    model: RoutedLM, params: Any, inputs: Any, routing: Routing | None, answer: LMAnswer
) -> Float[Array, ""]:
    """`answer_loss` by the plain forward pass: prompt and answer through every layer, nothing cached."""
    net = model.decoder(params)
    prompt, x, added = model.embed(params, inputs)
    tokens, valid, length = answer.tokens[:-1], answer.mask[:-1], len(prompt.tokens)
    x = jnp.concatenate([x, net.embed(tokens)])
    more = jnp.broadcast_to(prompt.next_position + jnp.arange(len(tokens)), (3, len(tokens)))
    added = None if added is None else jnp.pad(added, ((0, 0), (0, len(tokens)), (0, 0)))
    imposed = model.whole_routing(routing, prompt, valid)
    positions = jnp.concatenate([prompt.positions, more], axis=1)
    mask = jnp.concatenate([prompt.mask, valid])
    x, _ = net.run(x, positions, mask, routed=imposed, added=added)
    return mean_loss(net.logits(x[length - 1 :]), answer)
