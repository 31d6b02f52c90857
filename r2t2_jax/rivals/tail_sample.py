"""Tail sampling: several answers with sampled uncertain experts, and their vote.

Axis letters: B samples, L routed layers, E experts, k chosen experts, R runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from r2t2_jax.contract import Features, Inputs, Params, SteerableModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import generate_batch, generate_tokens
from r2t2_jax.rivals.base import BaselineBatch, baseline_result
from r2t2_jax.routing import TOKEN_CLASSES, Routing, RoutingSpec, TokenSteering, by_group, restrict
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@dataclass(frozen=True)
class TailSampleSettings:
    """`tail_sample`.

    Args:
        runs: number of answers, the router's own included.
        head: experts of each layer and group that are kept in every run, those with the largest weights.
        tail: experts that are drawn besides, for a model that mixes all experts; others fill up their k experts.
        temperature: of the draws.
    """

    runs: int = 8
    head: int = 1
    tail: int = 2
    temperature: float = 1.0


@register_pytree_dataclass
@dataclass(frozen=True)
class TailSample:
    """The most frequent answer of several runs, each with the head of the router's experts and a sampled tail.

    Expert-Sample (2026, arXiv 2602.02443) keeps the confident experts of the top k and samples the uncertain ones;
    RoE (2025, arXiv 2509.17238) adds Gumbel noise to the gates. Here the tail is a Gumbel top-k of the logits over the
    temperature, and the weights are the gate's, normalized over the chosen experts. Departures: a model that routes
    token by token samples at the prompt's last token only; a model that mixes all experts draws from the mean weights
    of the sample. The router's own answer is among the runs, and wins if answers are equally frequent.
    """

    runs: int = field(default=8, metadata={"static": True})
    head: int = field(default=1, metadata={"static": True})
    tail: int = field(default=2, metadata={"static": True})
    temperature: float = 1.0
    name: str = field(default="tail_sample", metadata={"static": True})

    selector, kernel, atlas, reads_references = None, None, None, False

    def __post_init__(self) -> None:
        for name, least in (("runs", 1), ("head", 0), ("tail", 1)):
            if getattr(self, name) < least:
                raise R2T2Error(f"tail_sample.{name} {getattr(self, name)}; it must be at least {least}")
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise R2T2Error(f"tail_sample.temperature {self.temperature}; it must be positive")

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`: the router's pass, and one for each run."""
        port, features = batch.port, batch.queries.features
        answers = [port.processor.decode(np.asarray(generate_batch(port, features, None)))]
        keys = jax.vmap(lambda key: jax.random.split(key, self.runs))(batch.keys)  # [B, R]
        sample = self._by_token(batch) if isinstance(port.model, SteerableModel) else self._whole(batch)
        answers += [port.processor.decode(np.asarray(sample(keys[:, run]))) for run in range(1, self.runs)]
        texts = [vote(row) for row in zip(*answers, strict=True)]
        return baseline_result(batch, evaluations=1 + self.runs, texts=texts)

    def _whole(self, batch: BaselineBatch) -> Any:
        """The answers of one run, as a function of its keys, of a model that mixes all experts."""
        port, queries, spec = batch.port, batch.queries, batch.port.model.spec
        passes_support = getattr(port.model, "reads_support", False)

        def run(keys: Key[Array, "B"]) -> Int[Array, "B A"]:
            def draw(key: Key[Array, ""], router: Float[Array, "L E"], has: Bool[Array, "L E"]) -> Float[Array, "L E"]:
                logits = jnp.where(has & (router > 0), jnp.log(jnp.maximum(router, 1e-30)), -jnp.inf)
                return restrict(spec, router, sampled(spec, key, logits, self.head, self.tail, self.temperature))

            weights = jax.vmap(draw)(keys, jnp.asarray(queries.routing), jnp.asarray(queries.support))
            support = jnp.asarray(queries.support) if passes_support else None
            return generate_batch(port, queries.features, Routing(weights, "replace", support))

        return run

    def _by_token(self, batch: BaselineBatch) -> Any:
        """The same of a model that routes token by token."""
        port = batch.port
        assert isinstance(port.model, SteerableModel)
        model = port.model.steerable(())
        inputs = port.processor.prepare(port.params, batch.samples)
        positions = tuple(model.gated_layers.index(name) for name in model.spec.layer_names)
        features, logits = _encode(port.params, inputs, model=model, layers=positions)
        head, tail = min(self.head, model.top_k - 1), max(model.top_k - self.head, 1)

        def run(keys: Key[Array, "B"]) -> Int[Array, "B A"]:
            chosen = jax.vmap(lambda key, row: sampled(model.spec, key, row, head, tail, self.temperature))(
                keys, logits
            )
            last = jnp.arange(len(TOKEN_CLASSES)) == TOKEN_CLASSES.index("last")
            selected = chosen[:, :, None] & last[None, None, :, None]  # [B, L, S, E]
            zeros = jnp.zeros(selected.shape)
            steering: Any = TokenSteering(zeros, zeros, selected, jnp.full_like(zeros, jnp.nan))
            routing = Routing(steering, "steer")
            return generate_tokens(
                port.params, features, routing, model=model, max_new_tokens=port.max_new_tokens
            )  # fmt: skip

        return run


def sampled(
    spec: RoutingSpec,
    key: Key[Array, ""],
    logits: Float[Array, "L E"],
    head: int,
    tail: int,
    temperature: float,
) -> Bool[Array, "L E"]:
    """The `head` experts of each group with the largest logits, and `tail` others by Gumbel top-k.

    Experts whose logit is minus infinity are drawn only where no others are left.
    """
    noise = jax.random.gumbel(key, logits.shape)

    def choose(logits: Float[Array, "L n"], noise: Float[Array, "L n"]) -> Bool[Array, "L n"]:
        kept = _largest(logits, head)
        return kept | _largest(jnp.where(kept, -jnp.inf, logits / temperature + noise), tail, ~kept)

    return by_group(spec, choose, logits, noise)


def _largest(scores: Float[Array, "L n"], count: int, among: Bool[Array, "L n"] | None = None) -> Bool[Array, "L n"]:
    rank = jnp.argsort(jnp.argsort(-scores, axis=-1, stable=True), axis=-1)
    return (rank < count) if among is None else (rank < count) & among


def vote(texts: Sequence[str]) -> str:
    """The most frequent text; the first of equally frequent ones."""
    return Counter(texts).most_common(1)[0][0]


@partial(jax.jit, static_argnames=("model", "layers"))
def _encode(
    params: Params, inputs: Inputs, *, model: SteerableModel, layers: tuple[int, ...]
) -> tuple[Features, Float[Array, "B L E"]]:
    """Features, and the logits of the re-routed gates at the prompt's last token."""

    def encode(inputs: Inputs) -> tuple[Features, Float[Array, "L E"]]:
        _, routes = model.record_routes(params, inputs, 1, logits=True)
        assert routes.logits is not None
        return model.encode(params, inputs), routes.logits[-2, jnp.asarray(layers)].astype(jnp.float32)

    return jax.lax.map(encode, inputs)


def tail_sample(tail_sample: TailSampleSettings) -> TailSample:
    """The vote of answers with the router's first expert and a sampled tail."""
    return TailSample(tail_sample.runs, tail_sample.head, tail_sample.tail, tail_sample.temperature)
