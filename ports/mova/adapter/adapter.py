"""The adapter, whole: mixers over a map of tokens under the gates' own weights or given ones, then image tokens.

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
from ports.mova.towers.patches import first
from r2t2_jax.routing import Routing

OUT = -1e6  # added to the logit of an expert that the coarse pass did not choose


def gate_weights(logits: Float[Array, "E"], coarse: Bool[Array, "E"], topk: int) -> Float[Array, "E"]:
    """Softmax over the chosen experts in float32, its `topk` largest entries brought to sum 1.

    Where fewer than `topk` are chosen the others have exactly zero; where none is, all have.
    """
    scores = jax.nn.softmax(logits.astype(jnp.float32) + jnp.where(coarse, 0.0, OUT))
    kept, experts = jax.lax.top_k(scores, min(topk, scores.shape[0]))
    weights = jnp.zeros_like(scores).at[experts].set(kept / kept.sum())
    return weights * coarse.any()


# What the later blocks read: the experts' features, or their projected keys and values, block after block.
Later = tuple[Float[Array, "N C"], ...] | tuple[tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]], ...]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Seen:
    """All that the mixers need and that does not depend on routing.

    `coarse` are the experts that the model itself chose: its gates weigh no other. `available` are those whose features
    are here: given weights act on these alone.
    """

    base: Float[Array, "N D"]
    read: Float[Array, "E N D"]  # what block 0 reads from each expert
    later: Later
    text: Float[Array, "M"]
    coarse: Bool[Array, "E"]
    available: Bool[Array, "E"]


class Adapter(nnx.Module):
    """Position table, blocks, downsampling."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.config = config
        self.places = normal(rngs, (config.tokens, config.width), config.dtype)
        self.blocks = nnx.List([AdapterBlock(config, rngs) for _ in range(config.blocks)])
        self.downsample = Downsample(config, rngs)

    def see(
        self,
        base: Float[Array, "N D"],
        experts: Sequence[Float[Array, "N C"]],
        text: Float[Array, "M"],
        coarse: Bool[Array, "E"],
        available: Bool[Array, "E"],
        keep: Keep,
    ) -> Seen:
        """What does not depend on routing: block 0's reading, and as much of the later blocks as `keep` says."""
        start = base + self.places[...]
        read = self.blocks[0].look(start, *self.blocks[0].project(experts))
        later = tuple(block.project(experts) for block in self.blocks[1:]) if keep == "keys" else tuple(experts)
        return Seen(base, read, later, text, coarse, available)

    def mix(self, seen: Seen, routing: Routing | None) -> tuple[Float[Array, "L N D"], Float[Array, "L E"]]:
        """The stream behind every block, and the weights in effect there."""
        x = seen.base + self.places[...]
        states, effective = [], []
        for number, block in enumerate(self.blocks):
            weights = self._weights(block, x, seen, routing, number)
            read = seen.read if number == 0 else block.look(x, *self._sources(block, seen.later, number))
            x = block.mix(x, read, weights)
            states.append(x)
            effective.append(weights)
        return jnp.stack(states), jnp.stack(effective)

    def _weights(
        self, block: AdapterBlock, x: Float[Array, "N D"], seen: Seen, routing: Routing | None, number: int
    ) -> Float[Array, "E"]:
        if routing is not None and routing.mode == "replace":
            return jnp.where(seen.available, routing.values[number], 0.0)
        logits = block.gate(seen.text, x).astype(jnp.float32)
        if routing is not None:
            logits = logits + routing.values[number]
        return gate_weights(logits, seen.coarse, self.config.topk)

    def _sources(
        self, block: AdapterBlock, later: Later, number: int
    ) -> tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]]:
        if isinstance(later[0], tuple):
            return later[number - 1]
        return block.project(later)

    def without_experts(self, base: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """The stream behind the last block where no expert has any weight: the coarse pass."""
        x = base + self.places[...]
        for block in self.blocks:
            x = block.finish(x)
        return x

    def tokens(self, base: Float[Array, "N D"], x: Float[Array, "N D"]) -> Float[Array, "I O"]:
        """Image tokens, from the mean of the last block's stream and CLIP's features as they came."""
        return self.downsample((x + base) / 2)


def adapter_leaves(ours: str, theirs: str, config: AdapterConfig) -> dict[str, Leaf]:
    """Parameters of `Adapter` at path `ours`, from `mm_projector` at prefix `theirs`, which ends in its separator.

    The tables `*.rope.freqs_*` are known there and not needed: they are computed.
    """
    leaves = {f"{ours}/places": Leaf((f"{theirs}pos_embed",), first)}
    for number in range(config.blocks):
        leaves |= block_leaves(f"{ours}/blocks/{number}", f"{theirs}blocks.{number}", config)
    return leaves | downsample_leaves(f"{ours}/downsample", theirs)
