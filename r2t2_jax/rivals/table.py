"""The table of rivals: other methods for test time with the same frozen model and references (docs/rivals.md).

A row is a name and a function of blocks of settings (`method/presets.py`). `RIVAL_STRATEGIES` return routing weights,
`BASELINES` answers.
"""

from __future__ import annotations

from collections.abc import Callable

from r2t2_jax.method.strategies import StrategyFactory
from r2t2_jax.rivals.active_experts import active_experts
from r2t2_jax.rivals.atlas_ensemble import atlas_ensemble
from r2t2_jax.rivals.base import Baseline
from r2t2_jax.rivals.cma_es import cma_es
from r2t2_jax.rivals.deyo import deyo
from r2t2_jax.rivals.domain_experts import expert_boost, expert_mask
from r2t2_jax.rivals.eata import eata
from r2t2_jax.rivals.in_context import in_context
from r2t2_jax.rivals.knn_moe import knn_moe
from r2t2_jax.rivals.memo import cotta, memo, tpt
from r2t2_jax.rivals.neighbor_vote import lame, neighbor_vote
from r2t2_jax.rivals.rewiring import rewiring
from r2t2_jax.rivals.roma import manifold_pull
from r2t2_jax.rivals.sar import sar
from r2t2_jax.rivals.t3 import t3
from r2t2_jax.rivals.tail_sample import tail_sample
from r2t2_jax.rivals.tent import tent
from r2t2_jax.rivals.warmup import warmup

RIVAL_STRATEGIES: dict[str, StrategyFactory] = {
    "tent": tent,
    "eata": eata,
    "sar": sar,
    "memo": memo,
    "tpt": tpt,
    "deyo": deyo,
    "cotta": cotta,
    "rewiring": rewiring,
    "cma_es": cma_es,
    "active_experts": active_experts,
    "t3": t3,
    "manifold_pull": manifold_pull,
    "knn_moe": knn_moe,
    "expert_boost": expert_boost,
    "expert_mask": expert_mask,
}

BASELINES: dict[str, Callable[..., Baseline]] = {
    "atlas_top8": atlas_ensemble,
    "neighbor_vote": neighbor_vote,
    "lame": lame,
    "tail_sample": tail_sample,
    "warmup": warmup,
    "in_context": in_context,
}

# Compared with re-routing in docs/rivals.md, among them controls of the paper's table; `BASELINES` are compared too.
RIVALS = (
    "tent",
    "eata",
    "sar",
    "memo",
    "tpt",
    "deyo",
    "cotta",
    "rewiring",
    "cma_es",
    "best_of_n",
    "active_experts",
    "t3",
    "manifold_pull",
    "knn_moe",
    "expert_boost",
    "expert_mask",
    "gate_finetuned",
    "uniform",
    "random_neighbors",
    "shuffled_references",
)
