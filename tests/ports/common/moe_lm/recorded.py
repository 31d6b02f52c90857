"""Recorded batches of language models, and their plain whole forward pass: the whole sequence through every layer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Batch(NamedTuple):
    tokens: Any  # [B, T]
    mask: Any
    labels: Any
    next_target: Any
    positions: Any  # [B, 3, T]
    embeddings: Any = None  # [B, T, D], with visual tokens
    added: Any = None  # [B, J, T, D]

    @classmethod
    def of(cls, arrays: Any, name: str) -> "Batch":
        tokens, mask = arrays[f"{name}/input_ids"], arrays[f"{name}/attention_mask"]
        positions = np.broadcast_to(np.arange(tokens.shape[1]), (len(tokens), 3, tokens.shape[1]))
        return cls(tokens, mask, arrays[f"{name}/labels"], arrays[f"{name}/next_target"], positions)

    def padded(self, size, length):
        """The same rows in a batch of another shape, so that batches share a compiled program."""
        labels = pad_rows(self.labels, size, length, -100)
        tokens, mask = (pad_rows(leaf, size, length) for leaf in (self.tokens, self.mask))
        positions = np.moveaxis(pad_rows(np.moveaxis(self.positions, 1, 2), size, length), 2, 1)
        return Batch(tokens, mask, labels, pad_rows(self.next_target, size), positions)


def pad_rows(leaf, size, length=None, fill=0):
    """The first row repeated up to `size` rows, and the second axis padded at its end."""
    leaf = np.concatenate([leaf, np.repeat(leaf[:1], size - len(leaf), axis=0)])
    if length is None:
        return leaf
    widths = [(0, 0), (0, length - leaf.shape[1])] + [(0, 0)] * (leaf.ndim - 2)
    return np.pad(leaf, widths, constant_values=fill)


class Whole(NamedTuple):
    embed: Any
    states: Any  # [B, N, T, D]
    before: Any
    final: Any
    router: Any  # [B, N, T, E]
    weights: Any
    ids: Any
    chosen: Any
    logits: Any
    loss: Any
    next_loss: Any


def whole_forward(net, batch, routed=None):
    """The plain forward pass; samples are mapped, and every leaf of the result has a leading axis B."""
    axes = None if routed is None else jax.tree.map(lambda _: 0, routed)

    def sample(row, routed):
        x = net.embed(row.tokens) if row.embeddings is None else row.embeddings
        last, out = net.run(x, row.positions, row.mask > 0, routed=routed, added=row.added, record=True)
        logits = net.logits(last)
        logprobs = jax.nn.log_softmax(logits)
        labels = row.labels[1:]
        picked = jnp.take_along_axis(logprobs[:-1], jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
        loss = -jnp.where(labels >= 0, picked, 0).sum() / (labels >= 0).sum()
        end = jnp.arange(len(row.tokens))[row.mask.shape[0] - 1 - jnp.argmax(row.mask[::-1])]
        return Whole(
            x, out.state, out.before, net.norm(last), out.choice.logits, out.weights, out.choice.ids,
            out.choice.weights, logits, loss, -logprobs[end, row.next_target],
        )  # fmt: skip

    return jax.vmap(sample, in_axes=(0, axes))(jax.tree.map(jnp.asarray, batch), routed)
