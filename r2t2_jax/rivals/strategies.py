"""Rivals of re-routing that return routing weights, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from r2t2_jax.method.kernels import Linear
from r2t2_jax.method.objectives import Oracle
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.search.gradient_descent import Fixed, GradientDescent
from r2t2_jax.method.strategies import (
    Strategy,
    confidence_search,
    descent_strategy,
    free_space,
    kernel_of,
    nearest_neighbors,
    schedule_of,
)
from r2t2_jax.retrieval.neighbors import NearestNeighbors
from r2t2_jax.rivals.active_experts import ActiveExperts
from r2t2_jax.rivals.cma_es import CmaEs
from r2t2_jax.rivals.entropy import DeYOEntropy, Entropy, MarginalEntropy, ReliableEntropy
from r2t2_jax.rivals.interpolation import KnnMoeInterpolation, T3Interpolation
from r2t2_jax.rivals.roma import RoMALoss
from r2t2_jax.rivals.sar import SharpnessAware
from r2t2_jax.rivals.self_training import JensenShannon, SelfCrossEntropy
from r2t2_jax.routing import UpdateSpace


def _rewiring(preset: Preset) -> Strategy:
    return Strategy(
        "rewiring",
        objective=SelfCrossEntropy(preset.answer_tokens),
        search=GradientDescent(Fixed(preset.rewiring_learning_rate), preset.optimizer, preset.rewiring_steps),
        space=UpdateSpace("shift", preset.tied),
    )


def _sar(preset: Preset) -> Strategy:
    search = SharpnessAware(
        schedule_of(preset),
        preset.entropy_margin,
        preset.sar_radius,
        preset.sar_recovery,
        preset.optimizer,
        preset.steps,
    )
    return dataclasses.replace(descent_strategy("sar", preset, Entropy(preset.answer_tokens), None), search=search)


def _marginal(name: str, preset: Preset, kept: int | None) -> Strategy:
    return descent_strategy(name, preset, MarginalEntropy(preset.answer_tokens, preset.views, kept), None)


def _knn_moe(preset: Preset) -> Strategy:
    """Similarities are cosines, since a share of the mixture must mean the same for every sample."""
    return Strategy(
        "knn_moe",
        NearestNeighbors(preset.k),
        Linear(),
        search=KnnMoeInterpolation(),
        space=free_space(preset),
        retrieval_key="hidden",
        memory_strategy=descent_strategy("oracle", preset, Oracle(), None),
    )


def _t3(preset: Preset) -> Strategy:
    search = T3Interpolation(preset.t3_low, preset.t3_high, preset.t3_gamma)
    return Strategy(
        "t3",
        nearest_neighbors(preset),
        kernel_of(preset),
        JensenShannon(preset.answer_tokens),
        search,
        free_space(preset),
    )


RIVAL_STRATEGIES: dict[str, Callable[[Preset], Strategy]] = {
    "tent": lambda p: descent_strategy("tent", p, Entropy(p.answer_tokens), None),
    "eata": lambda p: descent_strategy(
        "eata", p, ReliableEntropy(p.answer_tokens, p.entropy_margin, p.eata_pull), None
    ),
    "sar": _sar,
    "memo": lambda p: _marginal("memo", p, None),
    "tpt": lambda p: _marginal("tpt", p, p.views_kept),
    "deyo": lambda p: descent_strategy(
        "deyo", p, DeYOEntropy(p.answer_tokens, p.entropy_margin, p.deyo_threshold), None
    ),
    "rewiring": _rewiring,
    "cma_es": lambda p: confidence_search(
        "cma_es", p, CmaEs(p.cma_sigma, p.cma_generations), UpdateSpace("logit", p.tied)
    ),
    "active_experts": lambda p: confidence_search("active_experts", p, ActiveExperts(), free_space(p)),
    "t3": _t3,
    "manifold_pull": lambda p: descent_strategy(
        "manifold_pull", p, RoMALoss(p.manifold_pull), NearestNeighbors(p.manifold_k)
    ),
    "knn_moe": _knn_moe,
}

# What else one could do at test time with the same frozen model; `baselines.BASELINES` has those that give answers.
RIVALS = (
    "tent",
    "eata",
    "sar",
    "memo",
    "tpt",
    "deyo",
    "rewiring",
    "cma_es",
    "best_of_n",
    "active_experts",
    "t3",
    "manifold_pull",
    "knn_moe",
    "gate_finetuned",
    "uniform",
    "random_neighbors",
    "shuffled_references",
)
