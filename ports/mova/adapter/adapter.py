"""The adapter: blocks over a map of tokens, under the gates' own weights or given ones, then image tokens.

Axis letters: L blocks, E experts, N tokens of the map, H heads, d head width, D width, C channels of an expert,
M text width, I image tokens, O the language model's width. One sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from ports.common.checkpoint.mapping import Leaf
from ports.common.layers.linear import normal
from ports.mova.adapter.block import AdapterBlock, block_leaves
from ports.mova.adapter.downsample import Downsample, downsample_leaves
from ports.mova.config import AdapterConfig, Keep
from ports.mova.towers.patches import drop_leading_axis
from r2t2_jax.routing import Routing

MASKED_LOGIT = -1e6  # added to the logit of an expert that the coarse pass did not choose

# Input of the later blocks: the experts' features, or their keys and values, one pair a block.
LaterInputs = tuple[Float[Array, "N C"], ...] | tuple[tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]], ...]


def gate_weights(logits: Float[Array, "E"], coarse: Bool[Array, "E"], topk: int) -> Float[Array, "E"]:
    """Softmax over the chosen experts in float32, with the `topk` largest entries normalized to sum 1.

    If fewer than `topk` experts are chosen, the others have weight zero; if none is chosen, all weights are zero.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32) + jnp.where(coarse, 0.0, MASKED_LOGIT))
    largest, experts = jax.lax.top_k(scores, min(topk, scores.shape[0]))
    weights = jnp.zeros_like(scores).at[experts].set(largest / largest.sum())
    return weights * coarse.any()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AdapterFeatures:
    """The inputs of the blocks that do not depend on routing.

    Args:
        base: CLIP's tokens on the map.
        first_outputs: what block 0's cross-attention reads from each expert.
        later: input of the later blocks.
        text: the question.
        coarse: experts chosen by the coarse pass; the gates give weight to no other.
        available: experts that were run; given weights act on these only.
    """

    base: Float[Array, "N D"]
    first_outputs: Float[Array, "E N D"]
    later: LaterInputs
    text: Float[Array, "M"]
    coarse: Bool[Array, "E"]
    available: Bool[Array, "E"]


class Adapter(nnx.Module):
    """Position embedding, blocks, downsampling."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.config = config
        self.position_embedding = normal(rngs, (config.tokens, config.width), config.dtype)
        self.blocks = nnx.List([AdapterBlock(config, rngs) for _ in range(config.blocks)])
        self.downsample = Downsample(config, rngs)

    @jax.named_scope("adapter")
    def encode(
        self,
        base: Float[Array, "N D"],
        experts: Sequence[Float[Array, "N C"]],
        text: Float[Array, "M"],
        coarse: Bool[Array, "E"],
        available: Bool[Array, "E"],
        keep: Keep,
    ) -> AdapterFeatures:
        """Everything before routing: block 0's cross-attention, and of the later blocks what `keep` names."""
        start = base + self.position_embedding[...]
        first = self.blocks[0].cross_attend(start, *self.blocks[0].project_experts(experts))
        if keep == "keys":
            later: LaterInputs = tuple(block.project_experts(experts) for block in self.blocks[1:])
        else:
            later = tuple(experts)
        return AdapterFeatures(base, first, later, text, coarse, available)

    @jax.named_scope("adapter")
    def run_blocks(
        self, features: AdapterFeatures, routing: Routing | None
    ) -> tuple[Float[Array, "L N D"], Float[Array, "L E"]]:
        """The hidden state after every block, and the routing weights in effect there."""
        x = features.base + self.position_embedding[...]
        states, effective = [], []
        for number, block in enumerate(self.blocks):
            weights = self._effective_weights(block, x, features, routing, number)
            if number == 0:
                outputs = features.first_outputs
            else:
                outputs = block.cross_attend(x, *self._expert_keys_values(block, features.later, number))
            x = block.combine_experts(x, outputs, weights)
            states.append(x)
            effective.append(weights)
        return jnp.stack(states), jnp.stack(effective)

    def _effective_weights(
        self,
        block: AdapterBlock,
        x: Float[Array, "N D"],
        features: AdapterFeatures,
        routing: Routing | None,
        number: int,
    ) -> Float[Array, "E"]:
        if routing is not None and routing.mode == "replace":
            return jnp.where(features.available, routing.values[number], 0.0)
        logits = block.gate(features.text, x).astype(jnp.float32)
        if routing is not None:
            logits = logits + routing.values[number]
        return gate_weights(logits, features.coarse, self.config.topk)

    def _expert_keys_values(
        self, block: AdapterBlock, later: LaterInputs, number: int
    ) -> tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]]:
        if isinstance(later[0], tuple):
            return later[number - 1]
        return block.project_experts(later)

    @jax.named_scope("adapter")
    def without_experts(self, base: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """The hidden state after the last block if no expert has any weight: the coarse pass."""
        x = base + self.position_embedding[...]
        for block in self.blocks:
            x = block.attend_and_mlp(x)
        return x

    @jax.named_scope("adapter")
    def image_tokens(self, base: Float[Array, "N D"], x: Float[Array, "N D"]) -> Float[Array, "I O"]:
        """Image tokens, from the mean of the last block's hidden state and CLIP's features before the blocks."""
        return self.downsample((x + base) / 2)


def adapter_leaves(ours: str, theirs: str, config: AdapterConfig) -> dict[str, Leaf]:
    """Parameters of `Adapter` at path `ours`, from `mm_projector` at prefix `theirs`, which ends in its separator.

    The tables `*.rope.freqs_*` are not read, because they are computed.
    """
    leaves = {f"{ours}/position_embedding": Leaf((f"{theirs}pos_embed",), drop_leading_axis)}
    for number in range(config.blocks):
        leaves |= block_leaves(f"{ours}/blocks/{number}", f"{theirs}blocks.{number}", config)
    return leaves | downsample_leaves(f"{ours}/downsample", theirs)
