"""Re-route a Flax NNX classifier that has a gate per token.

    python examples/nnx_token_gates.py

A gate per token has no single r. Its mean over the tokens is r0, for the bank and for the samples, and in `answer_loss`
the weights [layers, experts] replace those of every token. Each expert is right about one topic; the gate, which reads
single tokens, does not know the topic of a sample.

Axis letters: B samples, T tokens, D width, E experts, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r2t2_jax import ReferenceBank, reroute

T, D, E, C = 6, 16, 4, 8


class Classifier(nnx.Module):
    """Linear experts [E, D, C] mixed by a gate at every token; the logits are the mean over the tokens."""

    def __init__(self, rngs: nnx.Rngs):
        self.experts = nnx.Param(jax.random.normal(rngs.params(), (E, D, C)))
        self.gate = nnx.Linear(D, E, rngs=rngs)

    def gates(self, tokens: jax.Array) -> jax.Array:
        """The gate's weights at every token [T, E]."""
        return jax.nn.softmax(self.gate(tokens))

    def __call__(self, tokens: jax.Array, weights: jax.Array) -> jax.Array:
        """Class logits [C] with the weights [E] at every token, or with weights of each token [T, E]."""
        outputs = jnp.einsum("td,edc->tec", tokens, self.experts[...])
        return jnp.einsum("te,tec->tc", jnp.broadcast_to(weights, (T, E)), outputs).mean(axis=0)


GRAPH, PARAMS = nnx.split(Classifier(nnx.Rngs(0)))


def answer_loss(params: Any, tokens: jax.Array, weights: jax.Array, label: jax.Array) -> jax.Array:
    """The cross-entropy of one sample; weights [1 layer, E]."""
    logits = nnx.merge(GRAPH, params)(tokens, weights[0])
    return -jax.nn.log_softmax(logits)[label]


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens [B, T, D], labels [B], r0 [B, 1, E] and embeddings [B, E] of samples about random topics."""
    rng = np.random.default_rng(seed)
    topics, tokens = rng.integers(0, E, count), rng.normal(size=(count, T, D)).astype(np.float32)
    model = nnx.merge(GRAPH, PARAMS)
    labels = np.einsum("btd,bdc->bc", tokens, np.asarray(model.experts[...])[topics]).argmax(axis=1)
    gates = np.asarray(jax.vmap(model.gates)(jnp.asarray(tokens)))  # [B, T, E]
    return tokens, labels, gates.mean(axis=1, keepdims=True), np.eye(E, dtype=np.float32)[topics]


def right(tokens: np.ndarray, weights: np.ndarray | jax.Array, labels: np.ndarray) -> Any:
    """Whether each sample is classified correctly with its weights [B, 1, E]."""
    model = nnx.merge(GRAPH, PARAMS)
    logits = jax.vmap(lambda tokens, weights: model(tokens, weights[0]))(jnp.asarray(tokens), jnp.asarray(weights))
    return np.equal(np.asarray(logits.argmax(axis=1)), labels)


def accuracies() -> dict[str, float]:
    """The accuracy on 200 test samples with the router's own weights and after re-routing."""
    tokens, labels, routing, embeddings = samples(400, seed=1)
    bank = ReferenceBank(tokens, labels, routing, embeddings, correct=right(tokens, routing, labels))
    tokens, labels, routing, embeddings = samples(200, seed=2)
    result = reroute(answer_loss, PARAMS, bank, tokens, routing, embeddings)  # chooses a preset, and says which
    return {
        "router": float(right(tokens, routing, labels).mean()),
        "ngd": float(right(tokens, result.weights, labels).mean()),
    }


if __name__ == "__main__":
    print({name: round(share, 3) for name, share in accuracies().items()})
