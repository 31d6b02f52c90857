"""Inputs of a routed language model, what is kept of them, and which of their tokens are re-routed.

Axis letters: T prompt tokens, R states that are kept (1 or T), A answer tokens, L routed layers, E experts, D width, J
levels of DeepStack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.decoder import KVCache
from ports.common.moe_lm.config import RoutingScope
from r2t2_jax.routing import TOKEN_CLASSES


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompt:
    """A prompt, padded on the left.

    `positions` are those of time, height and width; `next_position` that of the first answer token. `visual` marks the
    tokens that stand for image patches.
    """

    tokens: Int[Array, "T"]
    mask: Bool[Array, "T"]
    positions: Int[Array, "3 T"]
    visual: Bool[Array, "T"]
    next_position: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LMAnswer:
    """Answer tokens, end of turn included, padded on the right."""

    tokens: Int[Array, "A"]
    mask: Bool[Array, "A"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LMFeatures:
    """The result of `encode` for a prompt.

    Args:
        states: in front of the first routed layer: of the last token, or of all tokens.
        rows: which of these are re-routed; for a steered model their class in `TOKEN_CLASSES`, -1 for padding.
        early: keys and values of all tokens in the layers before the first routed one; `None` if there are none.
        late: those of the tokens before `states` in the other layers; `None` if `states` are all tokens.
        mask: the prompt's.
        positions: of `states`.
        next_position: of the first answer token.
        added: what DeepStack adds to the states after the first of these layers; `None` for nothing.
        core: the experts that the sample supports.
    """

    states: Float[Array, "R D"]
    rows: Bool[Array, "R"] | Int[Array, "R"]
    early: KVCache | None
    late: KVCache | None
    mask: Bool[Array, "T"]
    positions: Int[Array, "3 R"]
    next_position: Int[Array, ""]
    added: Float[Array, "J R D"] | None
    core: Bool[Array, "L E"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LMConditioned:
    """The part of a prompt and its answer that does not depend on r: as `LMFeatures`, without the last answer token.

    `mask` is that of prompt and answer, which an evaluation attends to; `prompt` the number R of the prompt's states.
    """

    states: Float[Array, "R+A-1 D"]
    rows: Bool[Array, "R+A-1"] | Int[Array, "R+A-1"]
    late: KVCache | None
    mask: Bool[Array, "T+A-1"]
    positions: Int[Array, "3 R+A-1"]
    added: Float[Array, "J R+A-1 D"] | None
    core: Bool[Array, "L E"]
    prompt: int = field(metadata={"static": True})


def prompt_rows(scope: RoutingScope, prompt: Prompt) -> Bool[Array, "T"] | Int[Array, "T"]:
    """The prompt's re-routed tokens; for a steered model the class of each token, -1 for padding."""
    if scope.steered:
        classes = jnp.where(prompt.visual, TOKEN_CLASSES.index("image"), TOKEN_CLASSES.index("text"))
        return jnp.where(prompt.mask, classes.at[-1].set(TOKEN_CLASSES.index("last")), -1)
    if scope.scope == "image":
        return prompt.mask & prompt.visual
    return prompt.mask & ~prompt.visual if scope.scope == "text" else prompt.mask


def answer_rows(scope: RoutingScope, valid: Bool[Array, "A"]) -> Bool[Array, "A"] | Int[Array, "A"]:
    """As `prompt_rows`, of an answer's tokens."""
    if scope.steered:
        return jnp.where(valid, TOKEN_CLASSES.index("answer"), -1)
    return valid & scope.answers


def averaged_rows(scope: RoutingScope, rows: Bool[Array, "R"] | Int[Array, "R"]) -> Bool[Array, "R"]:
    """The rows over which `route` averages: those of the scope."""
    if not scope.steered:
        return rows
    text, image, last = (TOKEN_CLASSES.index(name) for name in ("text", "image", "last"))
    if scope.scope == "last_prompt":
        return rows == last
    if scope.scope in ("image", "text"):
        return (rows == image) if scope.scope == "image" else (rows == text) | (rows == last)
    return rows >= 0


def answer_positions(features: LMFeatures, tokens: int) -> Int[Array, "3 tokens"]:
    """Positions of the first tokens of an answer."""
    return jnp.broadcast_to(features.next_position + jnp.arange(tokens), (3, tokens))
