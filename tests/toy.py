"""A routed language model small enough to reason about, and a bank and queries for it.

    x_0 = input;  x_{l+1} = x_l + sum_e w[l, e] tanh(x_l W[l, e]);  logits_t = x_L U + embedding[previous token] P

Axis letters: B test samples, A answer tokens, L routed layers, E experts, D width, V vocabulary, N bank size,
M embedding size, R size of what the gate reads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas, quantize
from r2t2_jax.bank.build_atlas import losses_at, slopes_at
from r2t2_jax.contract import Query, References
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_batch
from r2t2_jax.method.search.atlas_points import candidate_points
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import sample_keys, select
from r2t2_jax.routing import Routing, RoutingSpec, group_softmax

L, E, D, V, A, M, R = 2, 4, 7, 11, 3, 6, 5  # all different where the weight-gradient test looks at shapes
END = 0  # end-of-turn token
SMALL = Preset.from_mapping(
    {
        "line_search.evaluations": 6,
        "best_of_n.candidates": 4,
        "generation.max_new_tokens": A,
        "atlas.k": 5,
        "cma_es.generations": 2,
        "augmentation.views": 3,
        "tpt.selected_views": 2,
        "expert_boost.k": 5,
        "expert_mask.k": 5,
    }
)


@dataclass(frozen=True)
class ToyModel:
    """`traces` counts how often `answer_loss` was traced."""

    spec: RoutingSpec = RoutingSpec(("a", "b", "c", "d"), L)

    traces = 0

    def encode(self, params: Any, inputs: Any) -> Any:
        return inputs

    def route(self, params: Any, features: Any, routing: Routing | None = None) -> jax.Array:
        if routing is not None and routing.mode == "replace":
            return routing.values
        logits = jnp.tensordot(features["gate"], params["gate"], axes=1)  # [L, E]
        if routing is not None:
            logits = logits + routing.values
        return group_softmax(self.spec, logits, self.spec.support_mask())

    def _hidden(self, params: Any, features: Any, routing: Routing | None) -> jax.Array:
        weights = self.route(params, features, routing)  # [L, E]

        def layer(x: jax.Array, of: Any) -> tuple[jax.Array, None]:
            row, experts = of  # [E], [E, D, D]
            outputs = jnp.tanh(jnp.einsum("d,edf->ef", x, experts))  # [E, D]
            return x + row @ outputs, None

        return jax.lax.scan(layer, features["x"], (weights, params["experts"]))[0]  # [D]

    def _next(self, params: Any, hidden: jax.Array, previous: jax.Array) -> jax.Array:
        """Log-probabilities of the next token [V]."""
        return jax.nn.log_softmax(hidden @ params["head"] + params["embedding"][previous] @ params["previous"])

    def answer_loss(self, params: Any, features: Any, routing: Routing | None, answer: Any) -> jax.Array:
        type(self).traces += 1
        logprobs, _ = self.token_logprobs(params, features, routing, answer)  # [A, V]
        each = jnp.take_along_axis(logprobs, answer["tokens"][:, None], axis=1)[:, 0]  # [A]
        return -(each * answer["mask"]).sum() / answer["mask"].sum()

    def token_logprobs(self, params: Any, features: Any, routing: Routing | None, answer: Any) -> Any:
        hidden = self._hidden(params, features, routing)
        previous = jnp.concatenate([jnp.zeros(1, answer["tokens"].dtype), answer["tokens"][:-1]])  # [A]
        return jax.vmap(lambda token: self._next(params, hidden, token))(previous), answer["mask"] > 0

    def answer_logprobs(self, params: Any, features: Any, routing: Routing | None, candidates: Any) -> jax.Array:
        def total(answer: Any) -> jax.Array:
            return -self.answer_loss(params, features, routing, answer) * answer["mask"].sum()

        return jax.vmap(total)(candidates)

    def generate(self, params: Any, features: Any, routing: Routing | None, max_new_tokens: int) -> jax.Array:
        hidden = self._hidden(params, features, routing)

        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            previous, ended = carry
            token = jnp.where(ended, END, jnp.argmax(self._next(params, hidden, previous)))
            return (token, ended | (token == END)), token

        start = (jnp.asarray(0), jnp.asarray(False))
        return jax.lax.scan(step, start, length=max_new_tokens)[1]

    def as_answer(self, tokens: jax.Array) -> Any:
        before = jnp.cumsum(tokens == END) - (tokens == END)  # ends of turn before each token
        return {"tokens": tokens, "mask": (before == 0).astype(jnp.float32)}


MODEL = ToyModel()


def toy_params(seed: int = 0) -> dict[str, jax.Array]:
    shapes = {"experts": (L, E, D, D), "gate": (R, L, E), "head": (D, V), "embedding": (V, 3), "previous": (3, V)}
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def toy_features(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "x": rng.normal(size=(count, D)).astype(np.float32),
        "gate": rng.normal(size=(count, R)).astype(np.float32),
    }


def toy_views(rng: np.random.Generator, features: Any) -> tuple[Any, Any]:
    """Three copies of each sample's features, its own first; and features of something else."""
    count = len(features["x"])
    noise = {name: 0.3 * rng.normal(size=(count, 3, leaf.shape[1])) for name, leaf in features.items()}
    views = {name: (leaf[:, None] + noise[name]).astype(np.float32) for name, leaf in features.items()}
    views = {name: np.concatenate([features[name][:, None], leaf[:, 1:]], axis=1) for name, leaf in views.items()}
    return views, toy_features(rng, count)


def toy_answers(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    mask = np.arange(A)[None] < rng.integers(1, A + 1, (count, 1))
    return {"tokens": rng.integers(1, V, (count, A)), "mask": mask.astype(np.float32)}


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, M)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def own_routing(params: Any, features: Any, model: ToyModel = MODEL) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(model.route, in_axes=(None, 0)))(params, features))


def toy_bank(count: int = 12, seed: int = 1, params: Any = None) -> ReferenceBank:
    rng = np.random.default_rng(seed)
    features = toy_features(rng, count)
    routing = own_routing(toy_params() if params is None else params, features)
    return ReferenceBank(features, toy_answers(rng, count), routing, unit_vectors(rng, count))


def with_atlas(bank: ReferenceBank) -> ReferenceBank:
    """The bank with an atlas of its own at a few points, without choosing any."""
    params, points = toy_params(), candidate_points(MODEL.spec, drawn=4)
    arrays = (jax.tree.map(jnp.asarray, bank.features), jax.tree.map(jnp.asarray, bank.answers))
    losses = np.asarray(losses_at(params, *arrays, points, model=MODEL))
    ids = [f"r{i}" for i in range(len(bank))]
    slopes = np.asarray(slopes_at(params, *arrays, jnp.asarray(bank.routing), model=MODEL), np.float16)
    atlas = Atlas(points, quantize(losses, ids), slopes, "toy", MODEL.spec.experts, tuple(ids))
    return dataclasses.replace(bank, atlas=atlas)


def toy_queries(count: int = 5, seed: int = 2, params: Any = None) -> tuple[Query, np.ndarray]:
    """Queries with all that some strategy reads, and their embeddings."""
    rng = np.random.default_rng(seed)
    features = toy_features(rng, count)
    routing = own_routing(toy_params() if params is None else params, features)
    task = np.repeat(np.asarray(MODEL.spec.one_hot_experts(["a", "c"]))[None], count, axis=0)
    views, shuffled = toy_views(rng, features)
    live, other = np.ones((count, L, E), bool), toy_answers(np.random.default_rng(seed + 1), count)
    query = Query(features, routing, live, toy_answers(rng, count), task, task, views, shuffled, other)
    return jax.tree.map(jnp.asarray, query), unit_vectors(rng, count)


def references_for(strategy: Strategy, bank: ReferenceBank, embeddings: np.ndarray, numbers: Any = None) -> References:
    numbers = np.arange(len(embeddings)) if numbers is None else numbers
    if strategy.atlas is not None and strategy.selector is None:
        assert bank.atlas is not None
        return bank.atlas_references_from(
            np.repeat(bank.atlas.mean(strategy.atlas.loss)[None], len(embeddings), axis=0)
        )
    if strategy.selector is None:
        return bank.references()
    neighbors = select(strategy.selector, ExactIndex.build(bank.embeddings), embeddings, sample_keys(0, numbers))
    if strategy.atlas is None:
        return bank.references(neighbors, strategy.kernel)
    return bank.atlas_references(neighbors, strategy.kernel, strategy.atlas.loss)


def run(
    strategy: Strategy,
    rows: Any = None,
    mesh: Any = None,
    model: ToyModel = MODEL,
    count: int = 5,
    seed: int = 0,
    vmap_size: int = 1,
) -> Any:
    """Re-route the toy queries, or those in `rows`, each with its own number; `seed` is of the search."""
    queries, embeddings = toy_queries(count)
    rows = np.arange(count) if rows is None else np.asarray(rows)
    queries, embeddings = jax.tree.map(lambda leaf: leaf[rows], queries), embeddings[rows]
    bank = toy_bank() if strategy.atlas is None else with_atlas(toy_bank())
    references = references_for(strategy, bank, embeddings, rows)
    return reroute_batch(strategy, model, toy_params(), queries, references, sample_keys(seed, rows), mesh, vmap_size)
