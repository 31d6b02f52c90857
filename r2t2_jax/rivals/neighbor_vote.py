"""Neighbor vote: the kernel-weighted majority answer of the neighbors. LAME: the model's own answer corrected by it.

Axis letters: B test samples, K neighbors, C = K + 1 candidate answers, A answer tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.contract import Answer, Features, Params, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import NeighborhoodSettings
from r2t2_jax.method.strategies import kernel_of
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.rivals.base import BaselineBatch, NeighborBaseline, baseline_result
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class NeighborVote(NeighborBaseline):
    """argmax_y sum_i K(x_i, x) [y_i = y] over the neighbors; the nearest neighbor's of equal answers.

    Nearest-neighbor classification (Cover & Hart 1967) with the kernel's weights (Dudani 1976). The model is not used.
    """

    name: str = field(default="neighbor_vote", metadata={"static": True})

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`."""
        assert batch.references.weights is not None
        weights = np.asarray(batch.references.weights)
        texts = [vote(records, row) for records, row in zip(batch.neighbors, weights, strict=True)]
        return baseline_result(batch, evaluations=0, texts=texts)


def neighbor_vote(neighborhood: NeighborhoodSettings) -> NeighborVote:
    """Control: majority vote of the neighbors' answers, without running the model."""
    return NeighborVote(selector=NearestNeighbors(neighborhood.k), kernel=kernel_of(neighborhood))


def vote(neighbors: Sequence[Mapping[str, Any]], weights: Float[np.ndarray, "K"]) -> str:
    """The answer of the largest total weight; the nearest neighbor's if no neighbor has any weight.

    Raises:
        R2T2Error: the bank does not store its answers as text.
    """
    _check_answers("neighbor_vote", neighbors)
    totals: dict[str, float] = defaultdict(float)
    for record, weight in zip(neighbors, weights.tolist(), strict=True):
        totals[str(record["answer"])] += weight
    return max(totals, key=lambda text: totals[text])  # the first of equal ones, and the nearest come first


def _check_answers(name: str, neighbors: Sequence[Mapping[str, Any]]) -> None:
    if not all("answer" in record for record in neighbors):
        raise R2T2Error(f"{name} needs the answers of the references as text, and the bank's records have none")


@register_pytree_dataclass
@dataclass(frozen=True)
class Lame(NeighborBaseline):
    """argmax_c ln q_c + sum_j K(x_j, x) [y_j = c] over the model's own answer and the answers of the neighbors.

    LAME (Boudiaf et al. 2022, arXiv 2201.05718, equations 4 and 7; code: fiveai/LAME) corrects the output probabilities
    q, and no weight of the model: z_i is proportional to q_i exp(sum_j w_ij z_j), iterated over a batch of test
    samples. Departures: no sample may depend on others here, so the neighbors are references, whose z_j is their label,
    and one update is the fixed point; the classes are the candidates, with q normalized over them; w is the kernel.
    """

    name: str = field(default="lame", metadata={"static": True})

    def answer(self, batch: BaselineBatch) -> dict[str, Any]:
        """As `Baseline.answer`: one pass to generate, one to score all candidates."""
        assert batch.references.weights is not None
        port, features = batch.port, batch.queries.features
        for records in batch.neighbors:
            _check_answers(self.name, records)
        sizes = {"model": port.model, "max_new_tokens": port.max_new_tokens}
        own = port.processor.decode(np.asarray(_own_answers(port.params, features, **sizes)))
        texts = [
            [text, *(str(record["answer"]) for record in records)]
            for text, records in zip(own, batch.neighbors, strict=True)
        ]  # [B, C]
        ids = port.processor.answer_ids([text for row in texts for text in row])
        candidates = jax.tree.map(lambda leaf: jnp.asarray(leaf).reshape(len(texts), -1, *leaf.shape[1:]), ids)
        logprobs = np.asarray(_logprobs(port.params, features, candidates, model=port.model))  # [B, C]
        weights = np.asarray(batch.references.weights)
        answers = [corrected(*row) for row in zip(texts, logprobs, weights, strict=True)]
        return baseline_result(batch, evaluations=2, texts=answers)


def lame(neighborhood: NeighborhoodSettings) -> Lame:
    """The model's probabilities of its own and the neighbors' answers, corrected by the neighbors' labels."""
    return Lame(selector=NearestNeighbors(neighborhood.k), kernel=kernel_of(neighborhood))


def corrected(texts: Sequence[str], logprobs: Float[np.ndarray, "C"], weights: Float[np.ndarray, "K"]) -> str:
    """The candidate of the largest corrected log-probability; the first of equal ones.

    Args:
        texts: the model's own answer, then those of the neighbors.
        logprobs: of the candidates; equal texts count once, and normalization does not change the largest.
        weights: of the neighbors.
    """
    scores: dict[str, float] = {}
    for text, logprob in zip(texts, logprobs.tolist(), strict=True):
        scores.setdefault(text, logprob)
    for text, weight in zip(texts[1:], weights.tolist(), strict=True):
        scores[text] += weight
    return max(scores, key=lambda text: scores[text])


@partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def _own_answers(params: Params, features: Features, *, model: RoutedModel, max_new_tokens: int) -> Int[Array, "B A"]:
    return jax.lax.map(lambda sample: model.generate(params, sample, None, max_new_tokens), features)


@partial(jax.jit, static_argnames="model")
def _logprobs(params: Params, features: Features, candidates: Answer, *, model: RoutedModel) -> Float[Array, "B C"]:
    return jax.lax.map(lambda sample: model.answer_logprobs(params, sample[0], None, sample[1]), (features, candidates))
