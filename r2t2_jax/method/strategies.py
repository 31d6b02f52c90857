"""The named strategies: which neighbours, which loss, which search. The only list of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from r2t2_jax.contract import LogprobModel, Query, References, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian, Kernel, Linear, Matern, Polynomial
from r2t2_jax.method.objectives import Neighborhood, Objective, Oracle, PerSampleObjective, SelfConfidence
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.search.atlas import AtlasArgmin, AtlasSoftmin, AtlasTaylor
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, AtlasLoss
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, GradientDescent, Schedule, StepDecay
from r2t2_jax.method.search.kernel_regression import FixedRouting, KernelRegression
from r2t2_jax.method.search.line_search import LineSearch
from r2t2_jax.method.search.mode_finding import ModeFinding
from r2t2_jax.method.search.problem import Search
from r2t2_jax.method.search.random_search import RandomSearch
from r2t2_jax.retrieval.neighbors import EpsilonBall, NearestNeighbors, RandomNeighbors, Selector, ShuffledNeighbors
from r2t2_jax.routing import UpdateSpace
from r2t2_jax.runtime.pytrees import register_pytree_dataclass


@register_pytree_dataclass
@dataclass(frozen=True)
class AtlasConfig:
    """How a strategy reads the loss atlas.

    Args:
        source: where the losses at the atlas's points come from: the rows of the `neighbors`, references answered
            wrongly among them; the `mean` of all rows; an `mlp` fitted on the rows.
        loss: what a row is read as, before any mean: the `bounded` loss 1 - exp(-l), or the `cross_entropy` l.
    """

    source: Literal["neighbors", "mean", "mlp"] = field(metadata={"static": True})
    loss: AtlasLoss = field(default="bounded", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.loss not in DEQUANTIZE:
            raise R2T2Error(f"unknown atlas loss {self.loss!r}; choose bounded or cross_entropy")


@register_pytree_dataclass
@dataclass(frozen=True)
class Strategy:
    """One way to find routing weights. A pytree: its numbers are traced, its structure decides what is compiled.

    Args:
        name: what reports call it.
        selector, kernel: the neighbourhood in question space; `None` for strategies without one.
        objective: the loss over r; `None` for searches that need none.
        search: how r moves; `None` leaves the model untouched.
        space: the coordinates in which r moves.
        atlas: how the loss atlas is read, for searches that read it.
        retrieval_key: in which space neighbours are near: that of the question's embedding, or that of what the gate reads.
        memory_strategy: the strategy whose weights on the references, found once with their labels, stand for the router's.
    """

    name: str = field(metadata={"static": True})
    selector: Selector | None = None
    kernel: Kernel | None = None
    objective: Objective | None = None
    search: Search | None = None
    space: UpdateSpace = field(default_factory=UpdateSpace, metadata={"static": True})
    atlas: AtlasConfig | None = None
    retrieval_key: Literal["question", "hidden"] = field(default="question", metadata={"static": True})
    memory_strategy: Strategy | None = None

    @property
    def augmentations(self) -> Literal["views", "shuffled"] | None:
        """Which changed copies of the image the objective looks at."""
        return getattr(self.objective, "augmentations", None)


def kernel_of(preset: Preset) -> Kernel:
    """The kernel of a preset.

    Raises:
        R2T2Error: there is no kernel of this name.
    """
    if preset.kernel == "gaussian":
        return Gaussian(preset.bandwidth)
    if preset.kernel == "matern":
        return Matern(preset.nu, preset.bandwidth)
    if preset.kernel == "polynomial":
        return Polynomial(preset.degree, preset.offset)
    if preset.kernel == "linear":
        return Linear()
    raise R2T2Error(f"unknown kernel {preset.kernel!r}; choose gaussian, matern, polynomial or linear")


def nearest_neighbors(preset: Preset) -> Selector:
    return NearestNeighbors(preset.k) if preset.epsilon is None else EpsilonBall(preset.epsilon, preset.k)


def schedule_of(preset: Preset) -> Schedule:
    if preset.schedule == "cosine":
        return Cosine(preset.learning_rate, preset.final_learning_rate)
    if preset.schedule == "step":
        return StepDecay(preset.learning_rate, preset.decay_factor, preset.decay_every)
    if preset.schedule == "fixed":
        return Fixed(preset.learning_rate)
    raise R2T2Error(f"unknown schedule {preset.schedule!r}; choose cosine, step or fixed")


def free_space(preset: Preset) -> UpdateSpace:
    """Weights as they are: means and mixtures of the router's weights need no other coordinates."""
    return UpdateSpace("free", preset.tied)


def _mean_shift(preset: Preset) -> ModeFinding:
    return ModeFinding(
        kernel_of(dataclasses.replace(preset, bandwidth=preset.mode_bandwidth)),
        preset.mode_k,
        preset.mode_step,
        preset.mode_tolerance,
        preset.mode_iterations,
    )


def descent_strategy(name: str, preset: Preset, objective: Objective, selector: Selector | None) -> Strategy:
    return Strategy(
        name,
        selector,
        kernel_of(preset) if selector is not None else None,
        objective,
        GradientDescent(schedule_of(preset), preset.optimizer, preset.steps),
        UpdateSpace(preset.space, preset.tied),
    )


def reading_of(preset: Preset) -> AtlasConfig:
    """How a preset reads the atlas's rows of the neighbours.

    Raises:
        R2T2Error: there is no loss of this name.
    """
    return AtlasConfig("neighbors", preset.atlas_loss)


def _atlas(name: str, preset: Preset, search: Search, source: Literal["neighbors", "mean", "mlp"]) -> Strategy:
    near = source == "neighbors"
    return Strategy(
        name,
        NearestNeighbors(preset.atlas_k) if near else None,
        kernel_of(preset) if near else None,
        search=search,
        space=UpdateSpace("simplex", preset.tied),
        atlas=reading_of(preset) if near else AtlasConfig(source, preset.atlas_loss),
    )


def _atlas_taylor(preset: Preset) -> Strategy:
    if preset.atlas_loss != "bounded":
        raise R2T2Error(
            "atlas_taylor follows slopes of the bounded loss, and a bank keeps no others: set atlas_loss to bounded"
        )
    return _atlas("atlas_taylor", preset, AtlasTaylor(preset.taylor_trust), "neighbors")


def _table_mean(preset: Preset, hard: bool = False) -> AtlasSoftmin:
    return AtlasSoftmin(
        preset.atlas_temperature, preset.atlas_trust, preset.atlas_bandwidth, preset.atlas_min_gain, hard
    )


def confidence_search(name: str, preset: Preset, search: Search, space: UpdateSpace) -> Strategy:
    return Strategy(name, objective=SelfConfidence(preset.answer_tokens), search=search, space=space)


PAPER_STRATEGIES: dict[str, Callable[[Preset], Strategy]] = {
    "base": lambda p: Strategy("base"),
    "router_mean": lambda p: Strategy("router_mean", search=FixedRouting("router"), space=free_space(p)),
    "uniform": lambda p: Strategy("uniform", search=FixedRouting("uniform")),
    "task_routing": lambda p: Strategy("task_routing", search=FixedRouting("task")),
    "mode_finding": lambda p: Strategy("mode_finding", search=_mean_shift(p), space=free_space(p)),
    "kernel_regression": lambda p: Strategy(
        "kernel_regression", nearest_neighbors(p), kernel_of(p), None, KernelRegression(), free_space(p)
    ),
    "kernel_regression_alpha": lambda p: Strategy(
        "kernel_regression_alpha",
        nearest_neighbors(p),
        kernel_of(p),
        Neighborhood(),
        LineSearch(p.line_evaluations),
        free_space(p),
    ),
    "random_neighbors": lambda p: descent_strategy("random_neighbors", p, Neighborhood(), RandomNeighbors(p.k)),
    "shuffled_references": lambda p: descent_strategy("shuffled_references", p, Neighborhood(), ShuffledNeighbors(p.k)),
    "ngd": lambda p: descent_strategy("ngd", p, Neighborhood(), nearest_neighbors(p)),
    "best_of_n": lambda p: Strategy(
        "best_of_n", None, None, SelfConfidence(p.answer_tokens), RandomSearch(p.candidates), free_space(p)
    ),
    "oracle": lambda p: descent_strategy("oracle", p, Oracle(), None),
    "gate_finetuned": lambda p: Strategy("gate_finetuned", search=FixedRouting("tuned"), space=free_space(p)),
}

ATLAS_STRATEGIES: dict[str, Callable[[Preset], Strategy]] = {
    "atlas": lambda p: _atlas("atlas", p, _table_mean(p), "neighbors"),
    "atlas_argmin": lambda p: _atlas("atlas_argmin", p, _table_mean(p, hard=True), "neighbors"),
    "atlas_taylor": _atlas_taylor,
    "atlas_mlp": lambda p: _atlas("atlas_mlp", p, _table_mean(p), "mlp"),
    "best_fixed": lambda p: _atlas("best_fixed", p, AtlasArgmin(), "mean"),
}


def check_needs(strategy: Strategy, model: RoutedLoss, queries: Query, references: References | None) -> None:
    """Refuse a strategy that needs what the model, the queries or the references do not offer."""
    name = strategy.name
    if strategy.space.kind == "shift" and not hasattr(model, "route"):
        raise R2T2Error(f"{name} in the shift space needs a model with a gate; choose free, simplex or logit")
    if isinstance(strategy.objective, PerSampleObjective) and not isinstance(model, LogprobModel):
        raise R2T2Error(f"{name} needs a model that generates and tells the odds of every word (token_logprobs)")
    if isinstance(strategy.objective, SelfConfidence) and not (
        hasattr(model, "generate") and hasattr(model, "as_answer")
    ):
        raise R2T2Error(f"{name} needs a model that generates (generate, as_answer), not an answer loss alone")
    if strategy.augmentations is not None and getattr(queries, strategy.augmentations) is None:
        raise R2T2Error(f"{name} looks at changed copies of the image, and nobody made any: evaluation.pictures")
    if isinstance(strategy.objective, Oracle) and queries.answer is None:
        raise R2T2Error(f"{name} reads the test samples' answers and the queries have none")
    if isinstance(strategy.search, FixedRouting) and strategy.search.which == "task" and queries.task_routing is None:
        raise R2T2Error(f"{name} needs the queries' task weights, and nobody gave any")
    if (
        isinstance(strategy.search, FixedRouting)
        and strategy.search.which == "tuned"
        and queries.finetuned_routing is None
    ):
        raise R2T2Error(f"{name} needs the weights of a fine-tuned gate: evaluation.atlas_controls.train_gate")
    if strategy.atlas is not None and (references is None or references.points is None):
        raise R2T2Error(f"{name} reads the bank's loss atlas and it has none; make one with `r2t2 bank atlas`")
    if strategy.kernel is not None and (references is None or references.weights is None):
        raise R2T2Error(f"{name} needs the neighbours of each query: ReferenceBank.references(neighbors, kernel)")
    if isinstance(strategy.search, ModeFinding):
        if references is None or references.bank_routing is None:
            raise R2T2Error(f"{name} needs the bank's routing: ReferenceBank.references()")
        if strategy.search.k > len(references.bank_routing):
            size = len(references.bank_routing)
            raise R2T2Error(f"{name} looks at k={strategy.search.k} references of {size}; lower mode_k or collect more")
