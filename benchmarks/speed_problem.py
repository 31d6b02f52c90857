"""The descent problem of `benchmarks/speed.py`: the same numbers for every implementation, as plain arrays in a file.

It consists of the pocket model's own questions with neighbors retrieved as in `r2t2 eval`, encoded by `encode`. The
references include incorrectly answered ones, which changes no time.

Axis letters: B test samples, K neighbors, L mixers, E experts, A answer tokens, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    from r2t2_jax.bank import ReferenceBank
    from r2t2_jax.contract import Port
    from r2t2_jax.evaluation.encode import EncodedQuestions

GATE = "pocket:balanced"
# Small enough that no weight reaches zero, so that the projection onto the simplex clips nothing.
RATE, FINAL_RATE = 1e-2, 1e-5


@dataclass(frozen=True)
class DescentProblem:
    """Test samples with their neighbors, the nearest neighbor first."""

    model: Mapping[str, np.ndarray]  # the pocket model's weights, by path
    routing: Float[np.ndarray, "B L E"]  # the router's weights, the starting point
    weights: Float[np.ndarray, "B K"]  # kernel values
    features: Mapping[str, np.ndarray]  # fields of PocketFeatures, each [B, K, ...]
    tokens: Int[np.ndarray, "B K A"]
    mask: Bool[np.ndarray, "B K A"]

    def take(self, samples: int, k: int) -> DescentProblem:
        """The first samples with their k nearest neighbors; samples are repeated if there are too few."""
        rows = np.arange(samples) % len(self.routing)
        cut = {name: leaf[rows, :k] for name, leaf in self.features.items()}
        return DescentProblem(
            self.model, self.routing[rows], self.weights[rows, :k], cut, self.tokens[rows, :k], self.mask[rows, :k]
        )

    def save(self, path: Path) -> None:
        """Write everything to an npz file."""
        arrays = {name: getattr(self, name) for name in ("routing", "weights", "tokens", "mask")}
        for group in ("model", "features"):
            arrays |= {f"{group}:{name}": leaf for name, leaf in getattr(self, group).items()}
        np.savez(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> DescentProblem:
        """Read a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        model, features = (
            {name.removeprefix(group): leaf for name, leaf in arrays.items() if name.startswith(group)}
            for group in ("model:", "features:")
        )
        return cls(model, arrays["routing"], arrays["weights"], features, arrays["tokens"], arrays["mask"])


def rates(steps: int) -> list[float]:
    """Learning rates of a cosine schedule (R2-T2, section 4.1)."""
    return [FINAL_RATE + (RATE - FINAL_RATE) * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


def encoded(samples: int, references: int) -> tuple[Port, EncodedQuestions, ReferenceBank]:
    """The model, encoded test questions and a bank."""
    from r2t2_jax.bank import ReferenceBank
    from r2t2_jax.datasets import load_dataset
    from r2t2_jax.evaluation.encode import encode_questions
    from r2t2_jax.plugins import load

    port = load(GATE)
    questions = encode_questions(port, load_dataset("pocket", "test", samples), samples)
    encoded_references = encode_questions(port, load_dataset("pocket", "reference", references), samples)
    query = encoded_references.queries
    return port, questions, ReferenceBank(query.features, query.answer, query.routing, encoded_references.embeddings)


def make_problem(samples: int, k: int, references: int) -> DescentProblem:
    """Retrieve the neighbors of test questions among references, weighted by the paper's kernel."""
    import jax

    from ports.pocket.params import read_weights
    from r2t2_jax.method.kernels import Gaussian
    from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys, select

    _, questions, bank = encoded(samples, references)
    keys = sample_keys(0, np.arange(samples))
    neighbors = bank.references(select(NearestNeighbors(k), bank.index(), questions.embeddings, keys), Gaussian())
    features, answers, weights = jax.tree.map(np.asarray, (neighbors.features, neighbors.answers, neighbors.weights))
    return DescentProblem(
        read_weights().arrays,
        np.asarray(questions.queries.routing),
        weights,
        {field.name: getattr(features, field.name) for field in fields(features)},
        answers.tokens,
        answers.mask,
    )
