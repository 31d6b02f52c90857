"""Re-route a mixture of experts in plain `jax.numpy`: a loss function and arrays, no port and no files.

    python examples/plain_jnp.py

Three linear experts predict a number, each right about one topic; the router gives all of them the same weight.

Axis letters: B samples, D features, E experts.
"""

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax import ReferenceBank, reroute

D, E = 8, 3


def answer_loss(params: jax.Array, features: jax.Array, weights: jax.Array, answer: jax.Array) -> jax.Array:
    """The squared error of one sample; weights [1 layer, E]."""
    return jnp.square(weights[0] @ (params @ features) - answer)


def samples(params: jax.Array, count: int, seed: int) -> tuple[jax.Array, jax.Array, np.ndarray, jax.Array]:
    """Features [B, D], answers [B], router weights [B, 1, E] and embeddings [B, E] of samples about random topics."""
    topics = jax.random.randint(jax.random.key(seed), (count,), 0, E)
    features = jax.random.normal(jax.random.key(seed + 1), (count, D))
    embeddings = jax.nn.one_hot(topics, E)
    answers = ((features @ params.T) * embeddings).sum(axis=1)
    return features, answers, np.full((count, 1, E), 1 / E, np.float32), embeddings


def mean_losses() -> dict[str, float]:
    """The mean loss of 64 test samples with the router's own weights and after re-routing."""
    params = jax.random.normal(jax.random.key(0), (E, D))
    features, answers, routing, embeddings = samples(params, 100, seed=1)
    right = np.eye(E, dtype=np.float32)[np.asarray(embeddings).argmax(axis=1)][:, None]  # answers of the right expert
    bank = ReferenceBank(features, answers, right, embeddings)
    features, answers, routing, embeddings = samples(params, 64, seed=3)
    result = reroute(answer_loss, params, bank, features, routing, embeddings, preset="simplex")
    losses = jax.vmap(answer_loss, in_axes=(None, 0, 0, 0))
    return {
        "router": float(losses(params, features, jnp.asarray(routing), answers).mean()),
        "ngd": float(losses(params, features, result.weights, answers).mean()),
    }


if __name__ == "__main__":
    print({name: round(loss, 3) for name, loss in mean_losses().items()})
