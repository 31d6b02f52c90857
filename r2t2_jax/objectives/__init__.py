"""What to minimise over the routing weights r, one file each.

An objective is called as `objective(model, params, query, references, routing)` for one test sample and returns a
scalar; `objective.forwards(references)` tells how many r-dependent forward passes one value costs.
"""

from r2t2_jax.objectives.confidence import Confidence
from r2t2_jax.objectives.neighborhood import Neighborhood
from r2t2_jax.objectives.oracle import Oracle

Objective = Neighborhood | Oracle | Confidence

__all__ = ["Confidence", "Neighborhood", "Objective", "Oracle"]
