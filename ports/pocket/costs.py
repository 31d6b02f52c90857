"""The cost functions of the pocket model: variants of the gradient, from the literal one to the cheapest.

Letters: I image cells, A answer tokens, D width, V vocabulary, L mixers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.pocket.layers import rms_norm
from ports.pocket.model import PocketModel
from ports.pocket.modeling import PocketAnswer, PocketFeatures, PocketInputs, PocketNet, fake_inputs
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing

Loss = Callable[[Array, Any, Any, PocketAnswer], Float[Array, ""]]


def costs(model: PocketModel, params: Any) -> Costs:
    """The model's cost functions; `params` are shapes."""
    return Costs(jax.eval_shape(lambda: fake_inputs(model.config)), None, variants(model, params))


def variants(model: PocketModel, params: Any) -> tuple[CostVariant, ...]:
    """From the literal gradient to the one the port computes."""
    encode, every_logit = model.encode, whole_loss(model, every_logit=True)

    def literal(r: Float[Array, "L E"], params: Any, inputs: PocketInputs, answer: PocketAnswer) -> Float[Array, ""]:
        return every_logit(r, params, encode(params, inputs), answer)

    def loss(r: Float[Array, "L E"], params: Any, features: PocketFeatures, answer: PocketAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    def unchanged(params: Any, inputs: PocketInputs) -> PocketInputs:
        return inputs

    cheapest = CostVariant(
        "joint rows",
        "image and answer tokens go through the blocks as one batch of rows, and the last block projects the answer's "
        "queries in place of all keys and values",
        params, encode, loss,
    )  # fmt: skip
    return (
        CostVariant(
            "literal",
            "every step computes everything, forwards and backwards, with the gradient of every parameter",
            params, unchanged, literal, every_gradient=True,
        ),
        CostVariant(
            "routing gradients",
            "only the gradient with respect to the routing weights",
            params, unchanged, literal,
        ),
        CostVariant(
            "encode once",
            "vision, the question and the first mixer's experts are computed once per neighbor, not in every step",
            params, encode, every_logit,
        ),
        CostVariant(
            "answer logits",
            "logits at the answer's positions only",
            params, encode, whole_loss(model, every_logit=False),
        ),
        CostVariant(
            "answer queries",
            "in the last block image tokens contribute keys and values only (no queries)",
            params, encode, prefilled_loss(model),
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def prefilled_loss(model: PocketModel) -> Loss:
    """The loss with a pass of the image tokens, and then one of the answer tokens."""

    def loss(r: Float[Array, "L E"], params: Any, features: PocketFeatures, answer: PocketAnswer) -> Float[Array, ""]:
        net, keys, values = model._prefill(params, features, Routing(r))
        return -model._logprobs(net, keys, values, features, answer).sum() / answer.mask.sum()

    return loss


def whole_loss(model: PocketModel, every_logit: bool) -> Loss:
    """The loss with the last block run for every image cell, though no answer reads it.

    Args:
        model: of the loss.
        every_logit: also compute the logits of the image cells.
    """

    def loss(r: Float[Array, "L E"], params: Any, features: PocketFeatures, answer: PocketAnswer) -> Float[Array, ""]:
        net: PocketNet = nnx.merge(model.graph, params)
        keys, values, states = net.prefill_image(features, net.project(net.combine_experts(features, r)))
        cells = states.shape[1]
        mask = jnp.concatenate([features.question_mask, jnp.ones(cells, bool)])
        with jax.named_scope("prompt"):
            finished = net.blocks[-1](states[-1], keys[-1], values[-1], jnp.broadcast_to(mask, (cells, mask.shape[0])))
        logprobs = model._logprobs(net, keys, values, features, answer)  # [A]
        if every_logit:
            with jax.named_scope("prompt"):
                unread = jax.nn.log_softmax(net.lm_head(rms_norm(finished)))[:, 0]  # [I]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(cells, bool), unread, 0.0), logprobs])
        return -logprobs.sum() / answer.mask.sum()

    return loss
