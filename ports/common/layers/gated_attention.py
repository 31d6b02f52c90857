"""Full attention whose output is gated per head, as in Qwen3.5: partial rotary positions, zero-centered q and k norms.

Axis letters: T rows that are run, S rows attended to, D width, H query heads, G key-value heads, d head width, r
rotated entries of a head. One sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ports.common.layers.attention import attend_causal, join_heads, split_heads
from ports.common.layers.decoder import KVCache
from ports.common.layers.linear import ZeroCenteredRMSNorm, linear
from ports.common.layers.rotary import rotate_by


class GatedAttention(nnx.Module):
    """o_proj(attention * sigmoid(gate)), with zero-centered norms of queries and keys."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_width: int, eps: float, block: int, rngs: nnx.Rngs,
        dtype: str = "float32",
    ):  # fmt: skip
        self.heads, self.kv_heads, self.block = heads, kv_heads, block
        inner, shared = heads * head_width, kv_heads * head_width
        self.q_proj = linear(width, 2 * inner, rngs, dtype, bias=False)
        self.k_proj = linear(width, shared, rngs, dtype, bias=False)
        self.v_proj = linear(width, shared, rngs, dtype, bias=False)
        self.q_norm = ZeroCenteredRMSNorm(head_width, eps, dtype)
        self.k_norm = ZeroCenteredRMSNorm(head_width, eps, dtype)
        self.o_proj = linear(inner, width, rngs, dtype, bias=False)

    def project(
        self, h: Float[Array, "T D"], angles: Float[Array, "T r/2"]
    ) -> tuple[Float[Array, "T H d"], Float[Array, "T G d"], Float[Array, "T G d"], Float[Array, "T H d"]]:
        """Normalized and rotated queries and keys, values, and the gate, which follows the query in each head."""
        query, gate = jnp.split(split_heads(self.q_proj(h), self.heads), 2, axis=-1)
        key, value = (split_heads(part(h), self.kv_heads) for part in (self.k_proj, self.v_proj))
        return rotate_by(self.q_norm(query), angles), rotate_by(self.k_norm(key), angles), value, gate

    def __call__(
        self,
        h: Float[Array, "T D"],
        angles: Float[Array, "T r/2"],
        mask: Bool[Array, "T S"],
        past: KVCache | None,
        slot: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "T D"], KVCache]:
        """The layer's output, and what is kept of its cache; arguments as for `MoEDecoder.run`."""
        query, key, value, gate = self.project(h, angles)
        new, cache = KVCache(key, value).after(past, slot)
        ordered, before = (len(h), cache.keys.shape[0] - len(h)) if slot is None else (0, 0)
        attended = attend_causal(query, cache.keys, cache.values, mask, ordered, self.block, before)
        gate = jax.nn.sigmoid(gate.astype(jnp.float32)).astype(h.dtype)
        return self.o_proj(join_heads(attended * gate)), new
