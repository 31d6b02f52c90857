"""The reference set {(x_i, y_i, r_i)} in memory.

Axis letters: B test samples, K neighbours, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from r2t2_jax.checks import check_embeddings, check_finite, check_rows
from r2t2_jax.contract import Answer, Features, References
from r2t2_jax.errors import R2T2Error
from r2t2_jax.kernels import Kernel
from r2t2_jax.neighbors import Neighbors


@dataclass(frozen=True)
class ReferenceBank:
    """Samples the model answers correctly, with its own routing of each (R2-T2, section 3).

    Args:
        features: what the model computes of each sample without routing; every leaf has a leading axis N.
        answers: the correct answers, as `answer_loss` takes them; every leaf has a leading axis N.
        routing: the router's own weights [N, L, E].
        embeddings: unit question embeddings [N, M].
        records: question, answer and whatever else is worth telling of each sample, for reports.
        model_fingerprint, embedder_fingerprint: what computed the arrays.

    Raises:
        R2T2Error: the bank is empty, arrays disagree on N, an array holds NaN or infinity, or an embedding is no unit
            vector.
    """

    features: Features
    answers: Answer
    routing: Float[Array, "N L E"] | Float[np.ndarray, "N L E"]
    embeddings: Float[Array, "N M"] | Float[np.ndarray, "N M"]
    records: Sequence[Mapping[str, Any]] = field(default=())
    model_fingerprint: str = ""
    embedder_fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.routing.ndim != 3:
            raise R2T2Error(
                f"reference routing has shape {self.routing.shape}; it must be [references, layers, experts]"
            )
        if len(self) == 0:
            raise R2T2Error("empty reference set: the model answered no reference correctly; collect other samples")
        check_embeddings("reference embeddings", self.embeddings)
        for name, tree in self._arrays().items():
            check_rows(name, tree, len(self))
            check_finite(name, tree)
        if self.records and len(self.records) != len(self):
            raise R2T2Error(f"{len(self.records)} records for {len(self)} references; give one a reference or none")

    def _arrays(self) -> dict[str, Any]:
        return {
            "reference features": self.features,
            "reference answers": self.answers,
            "reference routing": self.routing,
            "reference embeddings": self.embeddings,
        }

    def __len__(self) -> int:
        return self.routing.shape[0]

    def references(self, neighbors: Neighbors | None = None, kernel: Kernel | None = None) -> References:
        """The references of a batch [B, K, ...], weighted by the kernel.

        Without neighbours only the routing of the whole bank is handed on, which is all that mode finding reads.
        """
        bank_routing = jnp.asarray(self.routing)
        if neighbors is None or kernel is None:
            return References(bank_routing)
        rows = np.asarray(neighbors.indices)  # [B, K]; on the host, since the features may live there
        features, answers, routing = jax.tree.map(
            lambda leaf: jnp.asarray(leaf[rows]), (self.features, self.answers, self.routing)
        )
        weights = kernel_weights(kernel, neighbors.distances, neighbors.dots, neighbors.mask)
        return References(bank_routing, features, answers, routing, weights)


@jax.jit
def kernel_weights(
    kernel: Kernel, distances: Float[Array, "B K"], dots: Float[Array, "B K"], mask: Bool[Array, "B K"]
) -> Float[Array, "B K"]:
    """Kernel values of every neighbourhood; by lax.map, so that a row does not depend on how many there are."""
    return jax.lax.map(lambda row: kernel(*row), (distances, dots, mask))
