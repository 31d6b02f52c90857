"""Do the stored routing weights know anything about the question? If not, neighbours have nothing to teach.

Each reference's weights are predicted by the mean of its k nearest other references'; R^2 is the share of the weights'
variance that this explains. Weights drawn independently of the question give about -1/k: the mean of k draws adds a
k-th of the variance to the error. Whether an R^2 is more than that is told by giving the same weights to the references
at random, many times over.

Axis letters: N references, K neighbours, D = L * E routing weights of a reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from r2t2_jax.errors import R2T2Error
from r2t2_jax.index import build_index

LOOKED = 5000  # references, drawn where there are more: each permutation looks up N K^2 products
PERMUTATIONS = 999
SIGNIFICANT = 0.01


@dataclass(frozen=True)
class Knowledge:
    """What the nearest references tell of a reference's routing weights.

    `null` is the mean of R^2 with weights given out at random; `p` is the share of those, the observed one counted,
    that are at least as large.
    """

    n: int
    k: int
    r2: float
    null: float
    p: float
    permutations: int

    @property
    def informative(self) -> bool:
        """Whether the weights tell something of the question, at the 1 % level."""
        return self.p <= SIGNIFICANT


def routing_knowledge(
    routing: Float[np.ndarray, "N L E"], embeddings: Float[np.ndarray, "N M"], k: int = 5, seed: int = 0
) -> Knowledge | None:
    """Test whether near questions have like weights; `None` where all references have the same weights.

    Raises:
        R2T2Error: there are too few references.
    """
    if k < 1 or len(routing) < k + 2:
        raise R2T2Error(f"{len(routing)} references are too few to look at {k} neighbours of each; k is at least 1")
    rng = np.random.default_rng(seed)
    if len(routing) > LOOKED:
        chosen = np.sort(rng.choice(len(routing), LOOKED, replace=False))
        routing, embeddings = routing[chosen], embeddings[chosen]
    weights = np.asarray(routing, np.float64).reshape(len(routing), -1)  # [N, D]
    weights = weights - weights.mean(axis=0)
    total = np.square(weights).sum()
    if total <= 1e-12 * weights.size:
        return None
    neighbors = other_neighbors(np.asarray(embeddings, np.float32), k)
    products = weights @ weights.T  # [N, N]: errors need no more, however many weights there are
    own = np.arange(len(weights))
    found = _r2(products, own, neighbors)
    null = np.array([_r2(products, rng.permutation(own), neighbors) for _ in range(PERMUTATIONS)])
    return Knowledge(
        n=len(weights),
        k=k,
        r2=found,
        null=float(null.mean()),
        p=float((1 + (null >= found).sum()) / (1 + PERMUTATIONS)),
        permutations=PERMUTATIONS,
    )


def other_neighbors(embeddings: Float[np.ndarray, "N M"], k: int) -> Int[np.ndarray, "N K"]:
    """The k nearest references of each that are not itself; equally near ones by index."""
    hits = build_index(embeddings, "exact").search(embeddings, k + 1)
    others = hits.indices != np.arange(len(embeddings))[:, None]  # [N, K + 1]
    others[others.all(axis=1), -1] = False  # more than k equal vectors: it is not among its own nearest
    return hits.indices[others].reshape(-1, k)


def _r2(products: Float[np.ndarray, "N N"], holder: Int[np.ndarray, "N"], neighbors: Int[np.ndarray, "N K"]) -> float:
    """R^2 when reference i holds the weights of `holder[i]`.

    |r - mean r_j|^2 = r.r - 2 / K sum_j r.r_j + 1 / K^2 sum_jj' r_j.r_j', all of them products of two references.
    """
    k = neighbors.shape[1]
    near = holder[neighbors]  # [N, K]
    total = np.trace(products)
    cross = products[holder[:, None], near].sum()
    among = products[near[:, :, None], near[:, None, :]].sum()
    return float(1 - (total - 2 * cross / k + among / k**2) / total)
