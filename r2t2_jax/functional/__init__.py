"""Re-routing of any JAX loss function, from arrays, without port or files.

Axis letters: B test samples, K neighbors, N bank size, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.build_atlas import AtlasPlan, compute_atlas
from r2t2_jax.contract import Answer, Features, Params, Rerouted, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.functional.arrays import ArraySamples, Loss, as_model, check_references, explained_failures
from r2t2_jax.functional.auto_preset import AUTO, resolve_strategy
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.routing import RoutingSpec
from r2t2_jax.runtime.checks import check_new_weights, check_seed, check_whole_number


def reroute(
    model: RoutedLoss | Loss,
    params: Params,
    bank: ReferenceBank,
    features: Features,
    routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
    embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"],
    *,
    strategy: Strategy | str = "ngd",
    preset: str | Preset | Mapping[str, Any] = AUTO,
    spec: RoutingSpec | None = None,
    support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"] | None = None,
    answers: Answer | None = None,
    seed: int = 0,
    mesh: Mesh | None = None,
    allow_leakage: bool = False,
) -> Rerouted:
    """Re-route a model given as a function: no port, no files.

    All experts may get weight unless `support` or `spec` says otherwise, also those that a top-k gate did not choose.
    A model with a gate per token has no single r: `routing` is the mean of its weights over the tokens (without
    padding), and in `answer_loss` the weights [L, E] replace those of every token. Shared experts, which every sample
    uses, stay inside the loss. A top-2 gate of 6 experts, whose choice of experts is kept:

        gates = softmax_top2(logits)            # [B, L, T, E], zero for experts that are not chosen
        routing = gates.mean(axis=2)            # [B, L, E], the same mean as for the references in the bank
        reroute(answer_loss, params, bank, features, routing, embeddings, support=routing > 0)

    Routing weights are shares: not negative, and those of experts that compete sum to at most one. Keep a constant
    factor of all weights in the loss. Experts that do not compete, as with sigmoid gates, have a group each:
    `spec=RoutingSpec(experts, layers, groups=((0,), (1,), ...))`; their weights may be any numbers. Only the update
    space `free`, as of the preset `paper`, moves them: `simplex` and `logit` set each to one.

    Args:
        model: a `RoutedModel`, or a function `answer_loss(params, features, weights, answer) -> scalar` of one sample
            with `weights` [L, E]. Any loss is possible.
        params: every array of the model.
        bank: samples with answers, which the model answers correctly; wrong ones too if `bank.correct` says which.
        features, routing, embeddings: of the B test samples, as in the bank: the inputs of the function, the
            router's own weights, and unit vectors whose distances measure similarity.
        strategy: a name, such as `ngd` or `atlas` (which needs `build_atlas`), or a `Strategy` with its settings.
        preset: settings of a strategy that is given by name: `paper`, `c3po`, `simplex`, `logit`, the file of
            `r2t2 tune`, a `Preset`, or settings that change the paper's, `{"descent": {"steps": 20}}`. `auto`
            compares `paper`, `simplex` and `logit` on left-out references, prints which is best and what the others
            would have given to standard error, and uses it; `Rerouted.preset` is its name. A bank of fewer than four
            references gets `paper` without a comparison, with at most as many neighbors as there are references.
        spec: names and structure of the routing weights, for a function; default: one group of numbered experts.
        support: the entries of r that may be non-zero for each sample; default: the model's
            or the spec's, which is all.
        answers: labels of the test samples, which only the oracle reads.
        seed: of random draws; those of sample i depend on the seed and i only.
        mesh: devices over which the samples are split, along the axis `data`.
        allow_leakage: accept test samples that are references: of equal features and embedding.

    Returns:
        `Rerouted` with a leading axis B on every leaf; `weights` [B, L, E] are the new routing weights. All neighbors'
        features [B, K, ...] are in memory at once.

    Raises:
        R2T2Error: an array holds NaN, has the wrong shape or weight outside its support, routing weights are no
            shares, k exceeds the bank, the loss fails, is no scalar, has no gradient or is NaN, the strategy needs what
            the model does not offer, or a test sample is a reference.
    """
    if isinstance(strategy, Strategy) and preset != AUTO:
        raise R2T2Error("a Strategy has its settings: give its name with a preset, or the Strategy without one")
    samples = ArraySamples.create(
        model, params, bank, features, routing, embeddings, answers, spec, support, seed, allow_leakage
    )
    if mesh is not None and not isinstance(mesh, Mesh):
        raise R2T2Error(f"mesh is of type {type(mesh).__name__}; give jax.make_mesh((devices,), ('data',))")
    chosen, name = resolve_strategy(strategy, preset, samples)
    result = samples.reroute(chosen, mesh)
    check_new_weights(chosen.name, result.weights, [f"row {i}" for i in range(len(samples))])
    return dataclasses.replace(result, preset=name)


def build_atlas(
    model: RoutedLoss | Loss,
    params: Params,
    bank: ReferenceBank,
    *,
    points: int = 16,
    spec: RoutingSpec | None = None,
    seed: int = 0,
) -> ReferenceBank:
    """The bank with a loss atlas: the loss of every reference at a few routing points, chosen once for the bank.

    With it, `reroute(..., strategy="atlas")` reads routing weights off the neighbors' losses, without a model pass.

    Args:
        model, params, spec: as `reroute` takes them.
        bank: with features; references answered wrongly are of use too.
        points: number of routing points.
        seed: of the random candidates for points.

    Returns:
        A bank in memory; `r2t2 bank atlas` writes the atlas of a bank in a folder.

    Raises:
        R2T2Error: there are fewer than two references, their routing weights are no shares, or the loss fails, is no
            scalar or is NaN.
    """
    check_whole_number("points", points, 1)
    check_seed(seed)
    model = as_model(model, bank, spec)
    check_references(model, params, bank)
    if len(bank) < 2:
        raise R2T2Error("an atlas needs at least two references")
    plan = AtlasPlan(points=points, k=min(AtlasPlan.k, len(bank) - 1), batch=min(AtlasPlan.batch, len(bank)), seed=seed)
    with explained_failures(model, params, bank):
        return dataclasses.replace(bank, atlas=compute_atlas(model, params, bank, plan))
