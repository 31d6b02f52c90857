"""What the pocket model costs, and the ladder from the literal gradient to the cheapest one.

Letters: I image cells, A answer tokens, D width, V vocabulary, L mixers, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.pocket import flops
from ports.pocket.modeling import PocketAnswer, PocketFeatures, PocketInputs, PocketNet, fake_inputs, rms_norm
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing

if TYPE_CHECKING:
    from ports.pocket.port import PocketModel

Loss = Callable[[Array, Any, Any, PocketAnswer], Float[Array, ""]]


def costs(model: PocketModel, params: Any) -> Costs:
    """The model's costs; `params` are shapes."""
    config = model.config
    return Costs(
        raw=jax.eval_shape(lambda: fake_inputs(config)),
        prepare=None,
        prepare_flops=0,
        encode_flops=flops.encode(config),
        route_flops=flops.route(config),
        answer_flops=flops.route(config) + flops.replaced(config),
        rerouted_loss_flops=flops.replaced(config),
        naive_flops=flops.encode(config) + flops.whole(config),
        ladder=ladder(model, params),
    )


def ladder(model: PocketModel, params: Any) -> tuple[CostVariant, ...]:
    """From the literal gradient to the one the port computes."""
    config = model.config
    encode, every = flops.encode(config), whole_loss(model, every_logit=True)

    def literal(r: Float[Array, "L E"], params: Any, inputs: PocketInputs, answer: PocketAnswer) -> Float[Array, ""]:
        return every(r, params, model.encode(params, inputs), answer)

    def loss(r: Float[Array, "L E"], params: Any, features: PocketFeatures, answer: PocketAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    def as_it_is(params: Any, inputs: PocketInputs) -> PocketInputs:
        return inputs

    cheapest = CostVariant(
        "answer queries",
        "in the last block image cells leave keys and values and ask nothing themselves",
        params, model.encode, loss, encode, flops.gradient(config),
    )  # fmt: skip
    return (
        CostVariant(
            "literal",
            "everything anew in every step, forwards and backwards, the gradient of every parameter with it",
            params, as_it_is, literal, 0, flops.training(config), every_gradient=True,
        ),
        CostVariant(
            "routing gradients",
            "gradients go to the routing weights alone",
            params, as_it_is, literal, 0, encode + flops.whole_gradient(config),
        ),
        CostVariant(
            "encode once",
            "vision, the question and the first mixer's experts are computed once a neighbour, not in every step",
            params, model.encode, every, encode, flops.whole_gradient(config),
        ),
        CostVariant(
            "answer logits",
            "logits at the answer's places alone",
            params, model.encode, whole_loss(model, every_logit=False), encode,
            flops.whole_gradient(config, logits=False),
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def whole_loss(model: PocketModel, every_logit: bool) -> Loss:
    """The loss with the last block run for every image cell, though no answer reads it; its logits too if asked for."""

    def loss(r: Float[Array, "L E"], params: Any, features: PocketFeatures, answer: PocketAnswer) -> Float[Array, ""]:
        net: PocketNet = nnx.merge(model.graph, params)
        keys, values, states = net.prefill_image(features, net.project(net.combine_experts(features, r)))
        cells = states.shape[1]
        mask = jnp.concatenate([features.question_mask, jnp.ones(cells, bool)])
        finished = net.blocks[-1](states[-1], keys[-1], values[-1], jnp.broadcast_to(mask, (cells, mask.shape[0])))
        logprobs = model._logprobs(net, keys, values, features, answer)  # [A]
        if every_logit:
            unread = jax.nn.log_softmax(net.lm_head(rms_norm(finished)))[:, 0]  # [I]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(cells, bool), unread, 0.0), logprobs])
        return -logprobs.sum() / answer.mask.sum()

    return loss
