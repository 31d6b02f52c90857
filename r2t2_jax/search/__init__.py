"""How to move the routing weights, one file each.

A search is called as `search(problem, key)` for one test sample and returns `Found`. `search.uses_router` tells whether
it starts from the router's own weights, and so needs the router's pass.
"""

from r2t2_jax.search.active_experts import ActiveExperts
from r2t2_jax.search.cma_es import CmaEs
from r2t2_jax.search.constant import Constant
from r2t2_jax.search.descent import Descent
from r2t2_jax.search.interpolation import ByLoss, BySimilarity
from r2t2_jax.search.kernel_mean import KernelMean
from r2t2_jax.search.line_search import LineSearch
from r2t2_jax.search.mean_shift import MeanShift
from r2t2_jax.search.problem import Found, Problem
from r2t2_jax.search.random_search import RandomSearch
from r2t2_jax.search.sharpness_aware import SharpnessAware
from r2t2_jax.search.table import BestPoint, TableDescent, TableMean, Taylor

Search = (
    ActiveExperts
    | BestPoint
    | ByLoss
    | BySimilarity
    | CmaEs
    | Constant
    | Descent
    | KernelMean
    | LineSearch
    | MeanShift
    | RandomSearch
    | SharpnessAware
    | TableDescent
    | TableMean
    | Taylor
)

__all__ = [
    "ActiveExperts",
    "BestPoint",
    "ByLoss",
    "BySimilarity",
    "CmaEs",
    "Constant",
    "Descent",
    "Found",
    "KernelMean",
    "LineSearch",
    "MeanShift",
    "Problem",
    "RandomSearch",
    "Search",
    "SharpnessAware",
    "TableDescent",
    "TableMean",
    "Taylor",
]
