"""The cost functions of MoAI: variants of the gradient, from the literal one to the cheapest.

Letters: L mixers, E experts, S slots of the prompt, A answer tokens.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.moai.batch import MoAIAnswer, MoAIFeatures, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.generate import answer_logprobs
from ports.moai.model import MoAIModel
from ports.moai.modeling import MoAINet, abstract, fake_inputs
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing


def costs(config: MoAIConfig, text: int) -> Costs:
    """The cost functions of a model whose prompts have `text` text tokens."""
    return Costs(jax.eval_shape(lambda: fake_inputs(config, text)), None, variants(config))


def variants(config: MoAIConfig) -> tuple[CostVariant, ...]:
    """From the literal gradient to the cheapest; `remat` and `merged_plora` are variants here and ignore `config`."""
    naive = naive_config(config)
    blocks = dataclasses.replace(naive, attention_block=config.attention_block)
    lean = dataclasses.replace(blocks, remat="attention")
    merged = dataclasses.replace(lean, merged_plora=True)

    def variant(name: str, about: str, config: MoAIConfig, **functions: Any) -> CostVariant:
        model, params = _model(config)
        return CostVariant(name, about, params, **{"once": model.encode, "loss": _loss(model)} | functions)

    literal = {"once": _unchanged, "loss": _literal(_model(naive)[0])}
    cheapest = variant(
        "merged adapters",
        "image rows use weights with the adapter added in: the decoder's weights are stored twice",
        merged,
    )
    return (
        variant(
            "literal",
            "every step computes everything, forwards and backwards, with the gradient of every parameter",
            naive, **literal, every_gradient=True,
        ),
        variant("routing gradients", "only the gradient with respect to the routing weights", naive, **literal),
        variant(
            "encode once",
            "vision, compressor, the layers before the first mixer and its experts are computed once per neighbor",
            naive, loss=_whole_loss(_model(naive)[0], every_logit=True),
        ),
        variant(
            "answer logits",
            "logits at the answer's positions only",
            naive, loss=_whole_loss(_model(naive)[0], every_logit=False),
        ),
        variant(
            "answer queries",
            "in the last layer the prompt's rows contribute keys and values only; the last row also has a query",
            naive,
        ),
        variant(
            "causal blocks",
            f"attention in blocks of {config.attention_block} image rows, without the keys that no row of a block sees",
            blocks,
        ),
        variant(
            "lean backward",
            "the backward pass recomputes attention instead of storing it: more work, less memory",
            lean,
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def naive_config(config: MoAIConfig) -> MoAIConfig:
    """The model as upstream runs it: attention over the full square, adapters apart, nothing recomputed."""
    return dataclasses.replace(config, attention_block=config.max_positions, remat="none", merged_plora=False)


@cache  # variants with one model share its functions, so they are traced once
def _model(config: MoAIConfig) -> tuple[MoAIModel, Any]:
    """The model, and its parameters as shapes."""
    graph, params = abstract(config)
    return MoAIModel(config, graph), params


def _unchanged(params: Any, inputs: MoAIInputs) -> MoAIInputs:
    return inputs


@cache
def _loss(model: MoAIModel) -> Any:
    def loss(r: Float[Array, "L E"], params: Any, features: MoAIFeatures, answer: MoAIAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    return loss


@cache
def _literal(model: MoAIModel) -> Any:
    whole = _whole_loss(model, every_logit=True)

    def loss(r: Float[Array, "L E"], params: Any, inputs: MoAIInputs, answer: MoAIAnswer) -> Float[Array, ""]:
        return whole(r, params, model.encode(params, inputs), answer)

    return loss


@cache
def _whole_loss(model: MoAIModel, every_logit: bool) -> Any:
    """The loss with every row of the last layer computed, though only one is read.

    Args:
        model: of the loss.
        every_logit: also compute the logits of the prompt's rows.
    """

    def loss(r: Float[Array, "L E"], params: Any, features: MoAIFeatures, answer: MoAIAnswer) -> Float[Array, ""]:
        net: MoAINet = nnx.merge(model.graph, params)
        x, cache, _ = net.prefill(features, Routing(r), every_row=True)
        logprobs = answer_logprobs(net, x[-1:], cache, features, answer)  # [A]
        if every_logit:
            unread = jax.nn.log_softmax(net.logits(x[:-1]))[:, 0]  # [S - 1]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(len(unread), bool), unread, 0.0), logprobs])
        return -logprobs.sum() / jnp.maximum(answer.mask.sum(), 1)

    return loss
