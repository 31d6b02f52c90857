"""What MoAI costs, and the ladder from the literal gradient to the cheapest one.

Letters: L mixers, E experts, S slots of the prompt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.moai import flops
from ports.moai.batch import MoAIAnswer, MoAIFeatures, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.generate import answer_logprobs
from ports.moai.model import MoAIModel
from ports.moai.modeling import MoAINet, abstract, fake_inputs
from r2t2_jax.contract import Costs, CostVariant
from r2t2_jax.routing import Routing


def costs(config: MoAIConfig, text: int, answer: int) -> Costs:
    """The costs of a model whose text and answer have so many tokens."""
    raw = jax.eval_shape(lambda: fake_inputs(config, text))
    verbalization = raw.verbalization.shape[0]
    written = _written(config)
    forward, gates = flops.forward_flops(config, text, answer), config.mixers * flops.gates(config, text)
    return Costs(
        raw=raw,
        prepare=None,
        prepare_flops=0,
        encode_flops=flops.encode_flops(config, text, verbalization),
        route_flops=flops.route_flops(config, text),
        answer_flops=forward + gates,
        rerouted_loss_flops=forward,
        naive_flops=flops.encode_flops(written, text, verbalization) + flops.whole_flops(written, text, answer),
        ladder=ladder(config, text, verbalization, answer),
    )


def ladder(config: MoAIConfig, text: int, verbalization: int, answer: int) -> tuple[CostVariant, ...]:
    """From the literal gradient to the cheapest one; `remat` and `merged_plora` are rungs, whatever `config` says."""
    written = _written(config)
    blocks = dataclasses.replace(written, attention_block=config.attention_block)
    lean = dataclasses.replace(blocks, remat="attention")
    merged = dataclasses.replace(lean, merged_plora=True)
    sizes = text, answer

    def encode(config: MoAIConfig) -> int:
        return flops.encode_flops(config, text, verbalization)

    def rung(name: str, about: str, config: MoAIConfig, step: int, **given: Any) -> CostVariant:
        model, params = _abstract(config)
        functions = {"once": model.encode, "loss": _loss(model), "once_flops": encode(config)} | given
        return CostVariant(name, about, params, step_flops=step, **functions)

    literal = {"once": _as_it_is, "loss": _literal(_abstract(written)[0]), "once_flops": 0}
    cheapest = rung(
        "merged adapters",
        "image rows use weights with the adapter added in: the decoder's weights twice in memory",
        merged, flops.gradient_flops(merged, *sizes),
    )  # fmt: skip
    return (
        rung(
            "literal",
            "everything anew in every step, forwards and backwards, the gradient of every parameter with it",
            written, flops.training_flops(written, text, verbalization, answer), **literal, every_gradient=True,
        ),
        rung(
            "routing gradients",
            "gradients go to the routing weights alone",
            written, encode(written) + flops.whole_gradient_flops(written, *sizes), **literal,
        ),
        rung(
            "encode once",
            "vision, compressor, the layers before the first mixer and its experts are computed once a neighbor",
            written, flops.whole_gradient_flops(written, *sizes), loss=_whole_loss(_abstract(written)[0], True),
        ),
        rung(
            "answer logits",
            "logits at the answer's places alone",
            written, flops.whole_gradient_flops(written, *sizes, logits=False),
            loss=_whole_loss(_abstract(written)[0], False),
        ),
        rung(
            "answer queries",
            "in the last layer the prompt's rows leave keys and values, and the last one alone asks",
            written, flops.gradient_flops(written, *sizes),
        ),
        rung(
            "causal blocks",
            f"attention in blocks of {config.attention_block} image rows, without keys that none of them may see",
            blocks, flops.gradient_flops(blocks, *sizes),
        ),
        rung(
            "lean backward",
            "attention is computed again in the backward pass instead of kept: more work, less memory",
            lean, flops.gradient_flops(lean, *sizes),
        ),
        cheapest,
        cheapest.for_all(),
    )  # fmt: skip


def _written(config: MoAIConfig) -> MoAIConfig:
    """The model as upstream wrote it: attention over the full square, adapters apart, nothing computed again."""
    return dataclasses.replace(config, attention_block=config.max_positions, remat="none", merged_plora=False)


def _abstract(config: MoAIConfig) -> tuple[MoAIModel, Any]:
    """The model, and its parameters as shapes."""
    graph, params = abstract(config)
    return MoAIModel(config, graph), params


def _as_it_is(params: Any, inputs: MoAIInputs) -> MoAIInputs:
    return inputs


def _loss(model: MoAIModel) -> Any:
    def loss(r: Float[Array, "L E"], params: Any, features: MoAIFeatures, answer: MoAIAnswer) -> Float[Array, ""]:
        return model.answer_loss(params, features, Routing(r), answer)

    return loss


def _literal(model: MoAIModel) -> Any:
    whole = _whole_loss(model, every_logit=True)

    def loss(r: Float[Array, "L E"], params: Any, inputs: MoAIInputs, answer: MoAIAnswer) -> Float[Array, ""]:
        return whole(r, params, model.encode(params, inputs), answer)

    return loss


def _whole_loss(model: MoAIModel, every_logit: bool) -> Any:
    """The loss with every row finished in the last layer, where only one is read; every row's logits if asked for."""

    def loss(r: Float[Array, "L E"], params: Any, features: MoAIFeatures, answer: MoAIAnswer) -> Float[Array, ""]:
        net: MoAINet = nnx.merge(model.graph, params)
        x, cache, _ = net.prefill(features, Routing(r), every_row=True)
        logprobs = answer_logprobs(net, x[-1:], cache, features, answer)  # [A]
        if every_logit:
            unread = jax.nn.log_softmax(net.logits(x[:-1]))[:, 0]  # [S - 1]
            logprobs = jnp.concatenate([jnp.where(jnp.zeros(len(unread), bool), unread, 0.0), logprobs])
        return -logprobs.sum() / jnp.maximum(answer.mask.sum(), 1)

    return loss
