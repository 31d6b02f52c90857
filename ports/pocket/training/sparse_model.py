"""Forward passes of `pocket:sparse` for training: batches, and experts with a gradient.

The serving path freezes its experts. Here every expert takes a fixed number of tokens of the batch, `SLACK` times its
even share; tokens beyond it get nothing from that expert (as in Switch Transformers).

Axis letters: B rows, T tokens of a batch, S image and text tokens of a row, k chosen experts, E experts, D width,
F width of an expert, C places of an expert, J levels of DeepStack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import attend, join_heads
from ports.common.layers.moe import ExpertChoice, Experts, select
from ports.common.layers.moe_decoder import MoEDecoder, MoEDecoderLayer
from ports.common.layers.stack import scan_layers
from ports.pocket.scenes import GRID
from ports.pocket.training.sparse_data import IMAGE_TOKENS, PackedQuestions, image_positions, packed_mask

SLACK = 1.5
ALIGNED = 0.7  # share of the keys' projection in that of the queries at the start


class Features(NamedTuple):
    """The tower's features of each scene, which the decoder reads."""

    merged: Float[Array, "B I D"]
    levels: Float[Array, "B J I D"]


class LayerChoice(NamedTuple):
    """The gate's probabilities, and how often each expert was chosen, of every token."""

    probabilities: Float[Array, "*N T E"]
    chosen: Float[Array, "*N T E"]


@jax.custom_vjp
def take_rows(x: Array, index: Int[Array, "M"], inverse: Int[Array, "T k"]) -> Array:
    """x[index], zero where the index is out of range; `inverse` holds the places to which each row of x went."""
    return jnp.take(x, index, axis=0, mode="fill", fill_value=0)


def _take_forward(x: Array, index: Array, inverse: Array) -> tuple[Array, Array]:
    return take_rows(x, index, inverse), inverse


def _take_backward(inverse: Array, gradient: Array) -> tuple[Array, None, None]:
    rows = jnp.take(gradient, inverse, axis=0, mode="fill", fill_value=0)  # [T, k, D]
    return rows.sum(axis=1), None, None


take_rows.defvjp(_take_forward, _take_backward)


def mix(experts: Experts, x: Float[Array, "T D"], choice: ExpertChoice, valid: Bool[Array, "T"]) -> Float[Array, "T D"]:
    """sum_k w_k f_k(x), each expert with a fixed number of places, of which padding takes none."""
    (tokens, k), number = choice.ids.shape, len(experts.gate_up[...])
    places = int(SLACK * tokens * k / number)
    flat = jnp.where(valid[:, None], choice.ids, number).reshape(-1)
    hot = jax.nn.one_hot(flat, number, dtype=jnp.int32)  # [T * k, E]
    rank = ((jnp.cumsum(hot, axis=0) - 1) * hot).sum(axis=1)
    fits = (rank < places) & (flat < number)
    place = jnp.where(fits, flat * places + rank, number * places)  # [T * k]
    source = jnp.full(number * places, tokens * k).at[place].set(jnp.arange(tokens * k), mode="drop")
    rows = take_rows(x, source // k, place.reshape(tokens, k)).reshape(number, places, -1)
    hidden = jnp.einsum("ecd,edf->ecf", rows, experts.gate_up[...])
    gate, up = jnp.split(hidden, 2, axis=-1)
    out = jnp.einsum("ecf,efd->ecd", jax.nn.silu(gate) * up, experts.down[...]).reshape(number * places, -1)
    out = take_rows(out, place, source[:, None]).reshape(tokens, k, -1)
    return jnp.einsum("tkd,tk->td", out, choice.weights)


def run(
    decoder: MoEDecoder, features: Features, rows: PackedQuestions
) -> tuple[Float[Array, "B S V"], LayerChoice, Bool[Array, "B S"]]:
    """Logits at the text tokens, the choices of all layers, and which tokens are no padding."""
    config, batch = decoder.config, len(rows.tokens)
    text = decoder.embed(rows.tokens)
    x = jnp.concatenate([features.merged, text], axis=1)  # [B, S, D]
    image = jnp.broadcast_to(jnp.asarray(image_positions())[None], (batch, 3, IMAGE_TOKENS))
    later = jnp.broadcast_to((GRID + rows.place)[:, None], (batch, 3, text.shape[1]))
    angles = jax.vmap(config.angles)(jnp.concatenate([image, later], axis=2))
    mask = jax.vmap(packed_mask)(rows.question)
    pad = ((0, 0), (0, config.layers - features.levels.shape[1]), (0, text.shape[1]), (0, 0))
    added = jnp.pad(features.levels, pad).swapaxes(0, 1)  # [N, B, S, D]
    width = x.shape[1]
    valid = jnp.concatenate([jnp.ones((batch, IMAGE_TOKENS), bool), rows.question >= 0], axis=1)

    def step(layer: MoEDecoderLayer, x: Array, added: Array) -> tuple[Array, LayerChoice]:
        query, key, value = jax.vmap(layer.project)(x, angles)
        attended = jax.vmap(lambda q, k, v, m: join_heads(attend(q, k, v, m)))(query, key, value, mask)
        x = x + layer.o_proj(attended)
        h = layer.post_attention_layernorm(x).reshape(batch * width, -1)
        choice = select(layer.gate(h), config.top_k, config.normalize)
        x = x + mix(layer.experts, h, choice, valid.reshape(-1)).reshape(x.shape) + added
        probabilities = jax.nn.softmax(choice.logits)
        chosen = jax.nn.one_hot(choice.ids, config.experts).sum(axis=1)
        return x, LayerChoice(probabilities, chosen)

    x, choices = scan_layers(decoder.layers, step, x, added)
    return decoder.logits(x[:, IMAGE_TOKENS:]), choices, valid


def answer_loss(logits: Float[Array, "B S V"], target: Int[Array, "B S"]) -> Float[Array, ""]:
    """Mean cross-entropy of the answers' tokens."""
    kept = target >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(kept, picked, 0.0).sum() / kept.sum()


def balance_loss(choices: LayerChoice, valid: Bool[Array, "B S"]) -> Float[Array, ""]:
    """E sum_e f_e p_e over the tokens of all layers (transformers' `load_balancing_loss_func`)."""
    weight = valid.reshape(-1) / (valid.sum() * len(choices.chosen))
    share, mean = (jnp.einsum("nte,t->e", leaf, weight) for leaf in choices)
    return choices.chosen.shape[-1] * (share * mean).sum()


def initialize(decoder: MoEDecoder, words: Mapping[int, Float[Array, "D"]]) -> None:
    """Scale experts and embeddings as linear maps are, align attention, and set the embeddings of some words.

    Queries start near the keys and outputs of heads near their inputs, so that a token first reads tokens like itself
    (mimetic initialization, arXiv 2305.09828).

    Args:
        decoder: changed in place.
        words: vectors by token, the directions in which the tower writes what the words name.
    """
    layers, config = decoder.layers, decoder.config
    for leaf, inside in ((layers.experts.gate_up, config.width), (layers.experts.down, config.hidden)):
        leaf[...] = leaf[...] * (inside**-0.5 / 0.02)
    shared = (config.layers, config.width, config.kv_heads, config.head_width)
    repeat, whole = config.heads // config.kv_heads, (config.layers, config.width, -1)

    def per_head(kernel: Array) -> Array:
        """A key-value projection as one of queries."""
        return jnp.repeat(kernel.reshape(shared), repeat, axis=2).reshape(whole)

    query, output = layers.q_proj.kernel, layers.o_proj.kernel
    query[...] = ALIGNED * per_head(layers.k_proj.kernel[...]) + (1 - ALIGNED**2) ** 0.5 * query[...]
    output[...] = (per_head(layers.v_proj.kernel[...]).swapaxes(1, 2) + output[...]) / 2
    table, head = decoder.embed_tokens[...] / 0.02, decoder.lm_head.kernel[...]
    for token, vector in words.items():
        unit = vector / jnp.linalg.norm(vector)
        table = table.at[token].set(unit * config.width**0.5)
        head = head.at[:, token].set(unit)
    decoder.embed_tokens[...], decoder.lm_head.kernel[...] = table, head
