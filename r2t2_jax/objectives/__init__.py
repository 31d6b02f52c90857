"""What to minimise over the routing weights r, one file each.

An objective is called as `objective(model, params, query, references, routing)` for one test sample and returns a
scalar; `objective.forwards(references)` tells how many r-dependent forward passes one value costs. Those which first
look at the untouched model (`anchored.py`) do so once a sample.
"""

from r2t2_jax.objectives.anchored import Anchored
from r2t2_jax.objectives.confidence import Confidence
from r2t2_jax.objectives.disagreement import Disagreement
from r2t2_jax.objectives.entropy import Entropy, ReliableEntropy
from r2t2_jax.objectives.manifold import Manifold
from r2t2_jax.objectives.marginal_entropy import MarginalEntropy
from r2t2_jax.objectives.neighborhood import Neighborhood
from r2t2_jax.objectives.object_entropy import ObjectEntropy
from r2t2_jax.objectives.oracle import Oracle
from r2t2_jax.objectives.self_cross_entropy import SelfCrossEntropy

Objective = (
    Confidence
    | Disagreement
    | Entropy
    | Manifold
    | MarginalEntropy
    | Neighborhood
    | ObjectEntropy
    | Oracle
    | ReliableEntropy
    | SelfCrossEntropy
)

__all__ = [
    "Anchored",
    "Confidence",
    "Disagreement",
    "Entropy",
    "Manifold",
    "MarginalEntropy",
    "Neighborhood",
    "ObjectEntropy",
    "Objective",
    "Oracle",
    "ReliableEntropy",
    "SelfCrossEntropy",
]
