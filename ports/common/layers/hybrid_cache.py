"""The cache of a decoder with two kinds of layers: keys and values of earlier rows, or the state after them.

Layers of full attention are the kind True, layers of Gated DeltaNet the kind False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ports.common.layers.decoder import KVCache
from ports.common.layers.gated_delta import DeltaState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HybridCache:
    """Keys and values, and states, of a stack of layers; `None` for a kind that no layer of the stack has."""

    attention: KVCache | None
    delta: DeltaState | None

    def padded(self, length: int) -> HybridCache:
        """As `KVCache.padded`; states have no slots."""
        return HybridCache(None if self.attention is None else self.attention.padded(length), self.delta)

    def followed_by(self, rows: HybridCache) -> HybridCache:
        """With later rows of the same layers, whose states replace the earlier ones."""
        if self.attention is None or rows.attention is None:
            return rows
        return HybridCache(self.attention.followed_by(rows.attention), rows.delta)

    def below(self, layers: HybridCache) -> HybridCache:
        """With the cache of the layers after these."""
        return HybridCache(_joined(self.attention, layers.attention), _joined(self.delta, layers.delta))

    def part(self, first: Mapping[bool, int], number: Mapping[bool, int]) -> HybridCache:
        """The cache of `number` layers of each kind, from the `first` of the kind on."""
        attention, delta = (
            None if leaves is None or not number[full] else jax.tree.map(
                lambda leaf, cut=slice(first[full], first[full] + number[full]): leaf[cut], leaves
            )
            for full, leaves in ((True, self.attention), (False, self.delta))
        )  # fmt: skip
        return HybridCache(attention, delta)


def _joined(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return jax.tree.map(lambda early, late: jnp.concatenate([early, late]), first, second)
