"""Re-route a layer with shared experts and a top-k gate, made of `ports/common/layers/moe.py`.

    python examples/shared_experts.py

Shared experts, which every sample uses, stay inside the loss. `support=routing > 0` keeps the two experts that the gate
chose; without it all experts may get weight.

Axis letters: B samples, D width, F width of an expert, E experts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.common.layers.moe import Experts, select
from r2t2_jax import ReferenceBank, reroute

D, F, E, K = 8, 16, 6, 2
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Layer(nnx.Module):
    """One shared expert, and E experts of which a gate chooses K."""

    def __init__(self, rngs: nnx.Rngs):
        self.experts, self.shared = Experts(E, D, F, rngs), Experts(1, D, F, rngs)

    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """The outputs [B, D] for any weights [B, E] of the experts."""
        return self.shared.all(x, jnp.ones((len(x), 1))) + self.experts.all(x, weights)


def scaled(state: Any) -> Any:
    """Parameters that make the outputs of the experts as large as their inputs."""
    return jax.tree.map(lambda leaf: 40 * leaf, state)


GRAPH, STATE = nnx.split(Layer(nnx.Rngs(0)))
PARAMS = scaled(STATE)


def answer_loss(params: Any, features: jax.Array, weights: jax.Array, answer: jax.Array) -> jax.Array:
    """The squared error of one sample; weights [1 layer, E]."""
    output = nnx.merge(GRAPH, params)(features[None], weights)[0]
    return jnp.square(output - answer).mean()


def gate(topics: np.ndarray) -> jax.Array:
    """The combine weights [B, E] of the K chosen experts, of which the second is the right one."""
    logits = 2 * jax.nn.one_hot((topics + 1) % E, E) + jax.nn.one_hot(topics, E)
    return select(logits, K, normalize=True).dense()


def samples(count: int, seed: int, route: Callable[[np.ndarray], jax.Array]) -> Arrays:
    """Features [B, D], answers [B, D], routing [B, 1, E] and embeddings [B, E] of samples about random topics."""
    rng = np.random.default_rng(seed)
    topics, x = rng.integers(0, E, count), rng.normal(size=(count, D)).astype(np.float32)
    right = jax.nn.one_hot(topics, E)
    answers = nnx.merge(GRAPH, PARAMS)(jnp.asarray(x), right)
    return x, np.asarray(answers), np.asarray(route(topics))[:, None], np.asarray(right)


def mean_losses() -> dict[str, float]:
    """The mean loss of 64 test samples: as routed, re-routed over the chosen experts, and over all experts."""
    bank = ReferenceBank(*samples(200, 1, lambda topics: jax.nn.one_hot(topics, E)))
    x, answers, routing, embeddings = samples(64, 2, gate)
    arrays = (answer_loss, PARAMS, bank, x, routing, embeddings)
    weights = {
        "router": routing,
        "chosen experts": reroute(*arrays, preset="simplex", support=routing > 0).weights,
        "all experts": reroute(*arrays, preset="simplex").weights,
    }
    losses = jax.jit(jax.vmap(answer_loss, in_axes=(None, 0, 0, 0)))
    return {name: float(losses(PARAMS, x, jnp.asarray(each), answers).mean()) for name, each in weights.items()}


if __name__ == "__main__":
    print({name: round(loss, 4) for name, loss in mean_losses().items()})
