"""One block of the adapter: gate, cross-attention to each expert, their weighted sum, self-attention, MLP.

Axis letters: E experts, N tokens of the map, H heads, d head width, D width, C channels of an expert, M text width.
One sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ports.common.checkpoint.mapping import Layers, Leaf, linear_leaves, norm_leaves
from ports.common.layers.attention import attend, join_heads, split_heads
from ports.common.layers.linear import LayerNorm, linear
from ports.common.layers.stack import recomputed, scan_layers, stack
from ports.mova.config import AdapterConfig
from ports.mova.layers import NormedSwiGLU, normed_swiglu_leaves, rotary_angles, rotate_pairs

KeysValues = tuple[Float[Array, "N H d"], Float[Array, "N H d"]]


class KeyValueProjection(nnx.Module):
    """Keys with rotary positions, and values; no biases."""

    def __init__(self, config: AdapterConfig, width: int, rngs: nnx.Rngs):
        self.config = config
        self.k_proj = linear(width, config.width, rngs, config.dtype, bias=False)
        self.v_proj = linear(width, config.width, rngs, config.dtype, bias=False)

    def __call__(self, features: Float[Array, "N C"]) -> KeysValues:
        angles = rotary_angles(self.config.grid, self.config.grid, self.config.head_width)
        keys, values = (split_heads(part(features), self.config.heads) for part in (self.k_proj, self.v_proj))
        return rotate_pairs(keys, angles), values


class SubLNAttention(nnx.Module):
    """o_proj(inner_attn_ln(attention)) from given keys and values: a norm before the output projection (EVA-02)."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.config = config
        self.q_proj = linear(config.width, config.width, rngs, config.dtype, bias=False)
        self.inner_attn_ln = LayerNorm(config.width, config.eps, config.dtype)
        self.o_proj = linear(config.width, config.width, rngs, config.dtype)

    def __call__(
        self, x: Float[Array, "N D"], keys: Float[Array, "N H d"], values: Float[Array, "N H d"]
    ) -> Float[Array, "N D"]:
        angles = rotary_angles(self.config.grid, self.config.grid, self.config.head_width)
        query = rotate_pairs(split_heads(self.q_proj(x), self.config.heads), angles)
        return self.o_proj(self.inner_attn_ln(join_heads(attend(query, keys, values))))


class AdapterGate(nnx.Module):
    """Logits over the experts from the question and the mean of the hidden state, concatenated in this order."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.fc1 = linear(config.text_width + config.width, config.width, rngs, config.dtype)
        self.fc2 = linear(config.width, len(config.expert_widths), rngs, config.dtype)

    def __call__(self, text: Float[Array, "M"], x: Float[Array, "N D"]) -> Float[Array, "E"]:
        inputs = jnp.concatenate([text, x.mean(axis=0)])
        return self.fc2(jax.nn.gelu(self.fc1(inputs), approximate=False))


class ExpertKeysValues(nnx.Module):
    """Keys and values of an expert, from its normalized features."""

    def __init__(self, config: AdapterConfig, channels: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(channels, config.eps, config.dtype)
        self.kv = KeyValueProjection(config, channels, rngs)

    def __call__(self, features: Float[Array, "N C"]) -> KeysValues:
        return self.kv(self.norm(features))


class CrossAttention(nnx.Module):
    """Attention of the normalized hidden state to the keys and values of one expert."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.width, config.eps, config.dtype)
        self.attention = SubLNAttention(config, rngs)

    def __call__(self, x: Float[Array, "N D"], keys_values: KeysValues) -> Float[Array, "N D"]:
        return self.attention(self.norm(x), *keys_values)


class AdapterBlock(nnx.Module):
    """x += sum_e w_e cross_attention_e(x); x += self_attention(x); x += mlp(x)."""

    def __init__(self, config: AdapterConfig, rngs: nnx.Rngs):
        width, self.remat = config.width, config.remat
        self.gate = AdapterGate(config, rngs)
        self.expert_kv = nnx.List([ExpertKeysValues(config, channels, rngs) for channels in config.expert_widths])
        self.cross_attn = stack(lambda rngs: CrossAttention(config, rngs), len(config.expert_widths), rngs)
        self.self_attn_norm = LayerNorm(width, config.eps, config.dtype)
        self.kv = KeyValueProjection(config, width, rngs)
        self.self_attn = SubLNAttention(config, rngs)
        self.mlp_norm = LayerNorm(width, config.eps, config.dtype)
        self.mlp = NormedSwiGLU(width, config.hidden, config.eps, rngs, config.dtype)

    def project_experts(
        self, experts: Sequence[Float[Array, "N C"]]
    ) -> tuple[Float[Array, "E N H d"], Float[Array, "E N H d"]]:
        """Keys and values of every expert. They do not depend on the hidden state, so not on the routing either."""
        pairs = (project(features) for project, features in zip(self.expert_kv, experts, strict=True))
        keys, values = zip(*pairs, strict=True)
        return jnp.stack(keys), jnp.stack(values)

    def cross_attend(
        self, x: Float[Array, "N D"], keys: Float[Array, "E N H d"], values: Float[Array, "E N H d"]
    ) -> Float[Array, "E N D"]:
        """The cross-attention output of every expert, computed one expert after the other."""
        _, outputs = scan_layers(
            self.cross_attn, lambda layer, x, keys_values: (x, layer(x, keys_values)), x, (keys, values),
            remat=self.remat,
        )  # fmt: skip
        return outputs

    def combine_experts(
        self, x: Float[Array, "N D"], outputs: Float[Array, "E N D"], weights: Float[Array, "E"]
    ) -> Float[Array, "N D"]:
        """The hidden state plus the experts' outputs under the routing weights, then the rest of the block."""
        return recomputed(self.attend_and_mlp, self.remat)(
            x + jnp.einsum("e,end->nd", weights.astype(x.dtype), outputs)
        )

    def attend_and_mlp(self, x: Float[Array, "N D"]) -> Float[Array, "N D"]:
        """Self-attention and MLP: the whole block if no expert has any weight."""
        h = self.self_attn_norm(x)
        x = x + self.self_attn(h, *self.kv(h))
        return x + self.mlp(self.mlp_norm(x))


def block_leaves(ours: str, theirs: str, config: AdapterConfig) -> dict[str, Leaf]:
    """Parameters of `AdapterBlock` at path `ours`, from an AdapterBlock of upstream called `theirs`."""
    experts = len(config.expert_widths)
    leaves = {
        **linear_leaves(f"{ours}/gate/fc1", f"{theirs}.gate.0"),
        **linear_leaves(f"{ours}/gate/fc2", f"{theirs}.gate.2"),
        **norm_leaves(f"{ours}/cross_attn/norm", f"{theirs}.norm1.{{}}", experts),
        **_attention_leaves(f"{ours}/cross_attn/attention", f"{theirs}.cross_attn.{{}}", experts),
        **norm_leaves(f"{ours}/self_attn_norm", f"{theirs}.norm3"),
        **_key_value_leaves(f"{ours}/kv", f"{theirs}.self_attn"),
        **_attention_leaves(f"{ours}/self_attn", f"{theirs}.self_attn"),
        **norm_leaves(f"{ours}/mlp_norm", f"{theirs}.norm4"),
        **normed_swiglu_leaves(f"{ours}/mlp", f"{theirs}.mlp"),
    }
    for number in range(experts):
        leaves |= norm_leaves(f"{ours}/expert_kv/{number}/norm", f"{theirs}.norm2.{number}")
        leaves |= _key_value_leaves(f"{ours}/expert_kv/{number}/kv", f"{theirs}.cross_attn.{number}")
    return leaves


def _key_value_leaves(ours: str, theirs: str) -> dict[str, Leaf]:
    return {
        **linear_leaves(f"{ours}/k_proj", f"{theirs}.k_proj", bias=False),
        **linear_leaves(f"{ours}/v_proj", f"{theirs}.v_proj", bias=False),
    }


def _attention_leaves(ours: str, theirs: str, layers: Layers = None) -> dict[str, Leaf]:
    """Parameters of `SubLNAttention`; with `layers`, `theirs` has a `{}` and the parameters are stacked."""
    return {
        **linear_leaves(f"{ours}/q_proj", f"{theirs}.q_proj", bias=False, layers=layers),
        **norm_leaves(f"{ours}/inner_attn_ln", f"{theirs}.inner_attn_ln", layers),
        **linear_leaves(f"{ours}/o_proj", f"{theirs}.proj", layers=layers),
    }
