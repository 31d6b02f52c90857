"""The entropy of the model's answer, which several test-time adaptation methods minimize. It needs no label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from r2t2_jax.contract import Answer, Features, LogprobModel, Params, RoutedLoss
from r2t2_jax.routing import Routing


@dataclass(frozen=True)
class EntropySettings:
    """E0 of EATA, SAR, and DeYO in nats: samples with a higher entropy are left unchanged. 0.4 ln C for C = 4
    options.
    """

    margin: float = 0.5545


def token_logprobs(
    model: RoutedLoss, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> tuple[Float[Array, "A V"], Bool[Array, "A"]]:
    """Log-probabilities of every token at each place of an answer, and the mask of the places that are not padding."""
    return cast(LogprobModel, model).token_logprobs(params, features, routing, answer)


def mean_over_answer(values: Float[Array, "A"], mask: Bool[Array, "A"]) -> Float[Array, ""]:
    """The mean over the places of an answer that are not padding."""
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def entropy(logprobs: Float[Array, "*n V"]) -> Float[Array, "*n"]:
    """H(p) = - sum_v p_v ln p_v, in nats."""
    return -(jnp.exp(logprobs) * logprobs).sum(axis=-1)


def answer_entropy(
    model: RoutedLoss, params: Params, features: Features, routing: Routing | None, answer: Answer
) -> Float[Array, ""]:
    """H(p_r): the mean over the answer's tokens of the entropy of the next token, in nats."""
    logprobs, mask = token_logprobs(model, params, features, routing, answer)
    return mean_over_answer(entropy(logprobs), mask)
