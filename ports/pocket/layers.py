"""Layers of the pocket model: the vision encoder, the mixer with explicit routing, and the transformer block.

Axis letters: E experts, I image cells, W channel, F expert features, Q key width, T tokens, D width, H heads; in
`Block.joint`, R tokens of the pass. One sample; batches are `vmap` outside.
"""

from __future__ import annotations

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from ports.pocket.attention import MASKED, Context, attend, attend_states
from ports.pocket.config import PocketConfig
from r2t2_jax.contract import OUTER_PRODUCTS

SCORE_LIMIT = 40.0  # exp(40) and exp(-40) and their squares, by which a gradient divides, are normal float32 numbers


def rms_norm(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Unit root mean square along the last axis; no gain."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-5)


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU in its tanh approximation, x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).

    In this form its gradient takes so few operations that XLA does not divide it among threads, which would cost more
    than it saves at these sizes.
    """
    return x * jax.nn.sigmoid(x * (1.5957691216 + 0.0713548163 * jnp.square(x)))


def convolve_patches(conv: nnx.Conv, x: Float[Array, "*B rows columns channels"]) -> Float[Array, "*B i j c"]:
    """A convolution whose windows do not overlap (stride = kernel size, no padding), as one product of all windows with
    the kernel. On a CPU it takes less time than XLA's convolution.
    """
    assert conv.bias is not None
    kernel = conv.kernel[...]
    height, width, inside, outside = kernel.shape
    *batch, rows, columns, _ = x.shape
    windows = x.reshape(*batch, rows // height, height, columns // width, width, inside).swapaxes(-4, -3)
    windows = windows.reshape(*windows.shape[:-3], height * width * inside)
    products = windows @ kernel.reshape(-1, outside)
    return products + jnp.broadcast_to(conv.bias[...], products.shape)


class VisionEncoder(nnx.Module):
    """A small convolutional encoder: a few numbers for each cell of the image."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        c1, c2, c3, c4 = config.convolutions
        self.conv1 = nnx.Conv(3, c1, (3, 3), strides=3, padding="VALID", rngs=rngs)
        self.conv2 = nnx.Conv(c1, c2, (3, 3), strides=2, rngs=rngs)
        self.conv3 = nnx.Conv(c2, c3, (3, 3), strides=2, rngs=rngs)
        self.conv4 = nnx.Conv(c3, c4, (2, 2), strides=2, padding="VALID", rngs=rngs)
        self.position_embedding = nnx.Param(jnp.zeros((config.cells, c4)))
        self.bottleneck = nnx.Linear(c4, config.expert_width, rngs=rngs)

    def __call__(self, image: UInt8[Array, "*B 96 96 3"]) -> Float[Array, "*B I F"]:
        x = image.astype(jnp.float32) / 127.5 - 1.0
        x = nnx.gelu(convolve_patches(self.conv1, x))  # [*B, 32, 32, c1]
        x = nnx.gelu(self.conv2(x))  # [*B, 16, 16, c2]
        x = nnx.gelu(self.conv3(x))  # [*B, 8, 8, c3]
        x = nnx.gelu(convolve_patches(self.conv4, x))  # [*B, 4, 4, c4]
        x = x.reshape(*x.shape[:-3], -1, x.shape[-1])  # [*B, I, c4]
        return rms_norm(self.bottleneck(x + jnp.broadcast_to(self.position_embedding[...], x.shape)))


class Mixer(nnx.Module):
    """x + scale * sum_e r_e * attention_e(x, expert e), each expert with its own projections."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        experts, cells = len(config.experts), config.cells

        def projection(inside: int, outside: int) -> nnx.Param:
            return nnx.Param(inside**-0.5 * jax.random.normal(rngs.params(), (experts, inside, outside)))

        self.q_proj = projection(config.channel, config.key_width)
        self.k_proj = projection(config.expert_width, config.key_width)
        self.v_proj = projection(config.expert_width, config.channel)
        self.prior = nnx.Param(jnp.full((experts,), 4.0))  # added to the score of a cell with itself
        self.scale = nnx.Param(jnp.asarray(2.0))
        self.cells = cells

    @jax.named_scope("mixer")
    def keys_values(self, vision: Float[Array, "E I F"]) -> tuple[Float[Array, "E I Q"], Float[Array, "E I W"]]:
        """Keys and values of the experts; independent of routing."""
        return jnp.einsum("eif,efq->eiq", vision, self.k_proj[...]), jnp.einsum(
            "eif,efw->eiw", vision, self.v_proj[...]
        )

    @jax.named_scope("mixer")
    def run_experts(
        self, x: Float[Array, "I W"], keys: Float[Array, "E I Q"], values: Float[Array, "E I W"]
    ) -> Float[Array, "E I W"]:
        """Each expert's output for every cell of the stream."""
        query = jnp.einsum("iw,ewq->eiq", rms_norm(x), self.q_proj[...])
        scores = jnp.einsum("eiq,ejq->eij", query, keys) / jnp.sqrt(float(keys.shape[-1]))
        scores = scores + self.prior[...][:, None, None] * jnp.eye(self.cells)[None]
        return jax.nn.softmax(scores, axis=-1) @ values

    @jax.named_scope("mixer")
    def combine_experts(
        self, x: Float[Array, "I W"], outputs: Float[Array, "E I W"], weights: Float[Array, "E"]
    ) -> Float[Array, "I W"]:
        """The stream plus the weighted sum of the experts' outputs."""
        with jax.named_scope(OUTER_PRODUCTS):  # a dot would transpose the outputs of all neighbors in every step
            combined = reduce(add, (weights[e] * outputs[e] for e in range(len(weights))))
        return x + self.scale[...] * combined

    @jax.named_scope("mixer")
    def __call__(
        self,
        x: Float[Array, "I W"],
        keys: Float[Array, "E I Q"],
        values: Float[Array, "E I W"],
        weights: Float[Array, "E"],
    ) -> Float[Array, "I W"]:
        """As `combine_experts` of `run_experts`, with one product over all experts' cells for the scores and one for
        the sum; query projection and keys are one matrix, which does not depend on the stream. Routing weights multiply
        the attention where it is normalized, so that the values are constants. The largest score of a row is not
        subtracted before the exponential, which on a CPU takes several times as long: `largest_scores` bounds them.
        """
        cells, width = x.shape
        query_keys = jnp.einsum("ewq,ejq->wej", self.q_proj[...], keys) / jnp.sqrt(float(keys.shape[-1]))
        prior = (self.prior[...][None, :, None] * jnp.eye(cells)[:, None]).reshape(cells, -1)
        attention = jnp.exp(rms_norm(x) @ query_keys.reshape(width, -1) + prior).reshape(cells, -1, cells)  # [I, E, I]
        shares = self.scale[...] * weights[None, :, None] / attention.sum(axis=-1, keepdims=True)  # [I, E, 1]
        return x + (shares * attention).reshape(cells, -1) @ values.reshape(-1, width)

    def largest_scores(self) -> Float[Array, "E"]:
        """Numbers that no score of an expert exceeds, as stream and vision features have a root mean square of one."""
        (_, width, key_width), expert_width = self.q_proj.shape, self.k_proj.shape[1]
        query_norm, key_norm = (jnp.linalg.norm(weights[...], axis=(1, 2)) for weights in (self.q_proj, self.k_proj))
        products = query_norm * key_norm * (width * expert_width / key_width) ** 0.5
        return products + jnp.maximum(self.prior[...], 0.0)


class Block(nnx.Module):
    """A pre-norm transformer block whose keys and values can be computed apart from its queries."""

    def __init__(self, config: PocketConfig, rngs: nnx.Rngs):
        width, hidden = config.width, config.hidden
        self.heads = config.heads
        self.scale = (width // config.heads) ** -0.5
        self.q_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.kv_proj = nnx.Linear(width, 2 * width, use_bias=False, rngs=rngs)
        self.o_proj = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.up_proj = nnx.Linear(width, hidden, rngs=rngs)
        self.down_proj = nnx.Linear(hidden, width, rngs=rngs)

    def keys_values(self, x: Float[Array, "T D"]) -> tuple[Float[Array, "T D"], Float[Array, "T D"]]:
        """Keys and values of these tokens."""
        keys, values = jnp.split(self.kv_proj(rms_norm(x)), 2, axis=-1)
        return keys, values

    def __call__(
        self, x: Float[Array, "T D"], keys: Float[Array, "S D"], values: Float[Array, "S D"], mask: Bool[Array, "T S"]
    ) -> Float[Array, "T D"]:
        def split(y: Array) -> Array:
            return y.reshape(y.shape[0], self.heads, -1).swapaxes(0, 1)  # [H, T, D / H]

        query, key, value = split(self.q_proj(rms_norm(x))), split(keys), split(values)
        scores = query @ key.swapaxes(1, 2) / jnp.sqrt(float(query.shape[-1]))  # [H, T, S]
        attended = jax.nn.softmax(scores + jnp.where(mask, 0.0, MASKED)[None], axis=-1) @ value
        x = x + self.o_proj(attended.swapaxes(0, 1).reshape(x.shape))
        return x + self.down_proj(gelu(self.up_proj(rms_norm(x))))

    def joint(
        self,
        x: Float[Array, "R D"],
        context: tuple[Float[Array, "T D"], Float[Array, "T D"]],
        mask: Bool[Array, "R T+R"],
    ) -> Float[Array, "R D"]:
        """As `__call__` for R tokens that attend to a context and to each other.

        Args:
            x: states of the tokens.
            context: keys, multiplied with `scale`, and values of T more tokens, the same in every step of a search.
            mask: true where a token sees one of the context, or one of the R.
        """
        normed = rms_norm(x)
        key, value = jnp.split(self.kv_proj.kernel[...], 2, axis=-1)  # two products: no slice of a result is copied
        query, keys, values = (self.split_heads(normed @ w) for w in (self.q_proj.kernel[...], key * self.scale, value))
        attended = attend(query, self.split_context(context), keys, values, mask)
        return self.after_attention(x, attended)

    def joint_last(
        self,
        x: Float[Array, "R D"],
        context: tuple[Float[Array, "T D"], Float[Array, "T D"]],
        mask: Bool[Array, "Q T+R"],
    ) -> Float[Array, "Q D"]:
        """As `joint` for the last Q of R tokens, without the keys and values of the R tokens."""
        normed, first = rms_norm(x), len(x) - len(mask)
        key, value = (self.split_heads(w) for w in jnp.split(self.kv_proj.kernel[...], 2, axis=-1))  # [D, H, D / H]
        query = self.split_heads(self.q_proj(normed[first:]))
        projected = jnp.einsum("qhd,chd->qhc", query, key * self.scale)
        mixed, attended = attend_states(query, projected, self.split_context(context), normed, mask)
        return self.after_attention(x[first:], attended + jnp.einsum("qhc,chd->qhd", mixed, value))

    def after_attention(self, x: Float[Array, "Q D"], attended: Float[Array, "Q H D/H"]) -> Float[Array, "Q D"]:
        """The rest of the block."""
        x = x + self.o_proj(attended.reshape(x.shape))
        return x + self.down_proj(gelu(self.up_proj(rms_norm(x))))

    def split_heads(self, y: Float[Array, "N D"]) -> Float[Array, "N H D/H"]:
        return y.reshape(y.shape[0], self.heads, -1)

    def split_context(self, context: tuple[Float[Array, "T D"], Float[Array, "T D"]]) -> Context:
        """Keys and values by head."""
        keys, values = context
        return self.split_heads(keys), self.split_heads(values)
