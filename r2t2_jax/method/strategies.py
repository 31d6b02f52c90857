"""Strategies: an objective, a search, a neighborhood, and an update space under a name.

A strategy is made by a function of the blocks of settings that it reads (`presets.py`): the names of the function's
parameters are the names of the blocks. The tables at the end hold the paper's strategies and those of the loss atlas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.fragile import FragileOnly, fragile_of
from r2t2_jax.method.kernels import Gaussian, Kernel, Linear, Matern, Polynomial
from r2t2_jax.method.needs import Need
from r2t2_jax.method.objectives import (
    Augmentations,
    Neighborhood,
    Objective,
    Oracle,
    PermutedOracle,
    SelfConfidence,
)
from r2t2_jax.method.presets import (
    AtlasSettings,
    AtlasTaylorSettings,
    BestOfNSettings,
    DescentSettings,
    FragileSettings,
    GenerationSettings,
    LineSearchSettings,
    ModeSettings,
    NeighborhoodSettings,
)
from r2t2_jax.method.search.atlas import AtlasArgmin, AtlasSoftmin, AtlasTaylor
from r2t2_jax.method.search.atlas_points import DEQUANTIZE, AtlasLoss, PointsMode
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
    """Configuration of reading the loss atlas.

    Args:
        source: of the losses at the atlas's points: the rows of the `neighbors`, including references answered
            wrongly; the `mean` of all rows; an `mlp` fitted on the rows.
        loss: how a row is read, before any mean: as the `bounded` loss 1 - exp(-l), or as the `cross_entropy` l.
        mixed: whether points are mixed with a sample's own weights (`for_points`).
    """

    source: Literal["neighbors", "mean", "mlp"] = field(metadata={"static": True})
    loss: AtlasLoss = field(default="bounded", metadata={"static": True})
    mixed: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        if self.loss not in DEQUANTIZE:
            raise R2T2Error(f"unknown atlas loss {self.loss!r}; choose bounded or cross_entropy")


@register_pytree_dataclass
@dataclass(frozen=True)
class Strategy:
    """One way to find routing weights. A pytree: its numbers are traced, its structure decides what is compiled.

    Args:
        name: as reports show it.
        selector, kernel: of the neighborhood in question space; `None` for strategies without one.
        objective: the loss over r; `None` for searches that need none.
        search: the algorithm that moves r; `None` leaves the model untouched.
        space: the coordinates in which r moves.
        atlas: how the loss atlas is read, for searches that read it.
        retrieval_key: the space of the distances to neighbors: the question's embedding, or the vector that the gate
            reads.
        memory_strategy: the strategy whose weights on the references, computed once with their labels, replace the
            router's.
        fragile: restricts it to uncertain samples; `None` for all.
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
    fragile: FragileOnly | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """The needs of objective, search, and space: what they read of the model, the queries, and the references."""
        needs = set[Need]()
        if self.objective is not None:
            needs |= self.objective.needs
        if self.search is not None:
            needs |= self.search.needs
        if self.fragile is not None:
            needs |= self.fragile.needs
        if self.kernel is not None:
            needs.add(Need.NEIGHBORS)
        if self.space.kind == "shift":
            needs.add(Need.GATE)
        return frozenset(needs)

    @property
    def reads_neighbor_features(self) -> bool:
        """Whether it runs the model on the neighbors; if not, their features need not be computed."""
        return Need.NEIGHBOR_FEATURES in self.needs

    @property
    def augmentations(self) -> Augmentations | None:
        """The augmented images that the objective reads."""
        return None if self.objective is None else self.objective.augmentations


def for_points(strategy: Strategy, mode: PointsMode) -> Strategy:
    """A strategy for an atlas with points of this kind: shifts are read in the shift space.

    A strategy that reads no atlas is returned as it is.
    """
    if strategy.atlas is None or mode == "replace":
        return strategy
    if mode == "shift":
        return replace(strategy, space=UpdateSpace("shift", strategy.space.tied))
    return replace(strategy, atlas=replace(strategy.atlas, mixed=True))


StrategyFactory = Callable[..., Strategy]  # of the blocks of settings that its parameters name
ALL_SAMPLES = FragileSettings()


def kernel_of(neighborhood: NeighborhoodSettings) -> Kernel:
    """The kernel of these settings.

    Raises:
        R2T2Error: there is no kernel of this name, or a number is out of range.
    """
    if neighborhood.kernel == "gaussian":
        return Gaussian(neighborhood.bandwidth)
    if neighborhood.kernel == "matern":
        return Matern(neighborhood.nu, neighborhood.bandwidth)
    if neighborhood.kernel == "polynomial":
        return Polynomial(neighborhood.degree, neighborhood.offset)
    if neighborhood.kernel == "linear":
        return Linear()
    raise R2T2Error(f"unknown kernel {neighborhood.kernel!r}; choose gaussian, matern, polynomial or linear")


def selector_of(neighborhood: NeighborhoodSettings) -> Selector:
    """The k nearest references, or those in a ball; another k than the default caps the ball as `max_in_ball` does."""
    if neighborhood.epsilon is None:
        return NearestNeighbors(neighborhood.k)
    largest = neighborhood.max_in_ball
    if largest is None and neighborhood.k != NeighborhoodSettings.k:
        largest = neighborhood.k
    return EpsilonBall(neighborhood.epsilon, largest)


def schedule_of(descent: DescentSettings) -> Schedule:
    """The schedule of the learning rate.

    Raises:
        R2T2Error: there is no schedule of this name, or a number is out of range.
    """
    if descent.schedule == "cosine":
        return Cosine(descent.learning_rate, descent.final_learning_rate)
    if descent.schedule == "step":
        return StepDecay(descent.learning_rate, descent.decay_factor, descent.decay_every)
    if descent.schedule == "fixed":
        return Fixed(descent.learning_rate)
    raise R2T2Error(f"unknown schedule {descent.schedule!r}; choose cosine, step or fixed")


def descent_of(descent: DescentSettings) -> GradientDescent:
    """Gradient descent with these settings."""
    return GradientDescent(schedule_of(descent), descent.optimizer, descent.steps)


def free_space(space: UpdateSpace) -> UpdateSpace:
    """The free space: means and mixtures of routing weights need no other coordinates."""
    return dataclasses.replace(space, kind="free")


# The paper's strategies and their controls.


def base() -> Strategy:
    """Control: the unmodified model with its router's own weights."""
    return Strategy("base")


def router_mean(space: UpdateSpace) -> Strategy:
    """Control: the router's weights averaged over tokens, set as a fixed routing."""
    return Strategy("router_mean", search=FixedRouting("router"), space=free_space(space))


def uniform() -> Strategy:
    """Control: equal weights for all experts."""
    return Strategy("uniform", search=FixedRouting("uniform"))


def task_routing() -> Strategy:
    """Practical ceiling: the experts that a person would choose for the question."""
    return Strategy("task_routing", search=FixedRouting("task"))


def gate_finetuned(space: UpdateSpace) -> Strategy:
    """Control: a gate fine-tuned on the references."""
    return Strategy("gate_finetuned", search=FixedRouting("finetuned"), space=free_space(space))


def mode_finding(neighborhood: NeighborhoodSettings, mode: ModeSettings, space: UpdateSpace) -> Strategy:
    """Mean shift toward a mode of the references' routing weights."""
    kernel = kernel_of(dataclasses.replace(neighborhood, bandwidth=mode.bandwidth))
    search = ModeFinding(kernel, mode.k, mode.step_size, mode.tolerance, mode.max_iterations)
    return Strategy("mode_finding", search=search, space=free_space(space))


def kernel_regression(
    neighborhood: NeighborhoodSettings, space: UpdateSpace, fragile: FragileSettings = ALL_SAMPLES
) -> Strategy:
    """Kernel-weighted mean of the neighbors' routing weights."""
    selector, kernel = selector_of(neighborhood), kernel_of(neighborhood)
    search, restriction = KernelRegression(), fragile_of(fragile)
    return Strategy("kernel_regression", selector, kernel, None, search, free_space(space), fragile=restriction)


def kernel_regression_alpha(
    neighborhood: NeighborhoodSettings, line_search: LineSearchSettings, space: UpdateSpace
) -> Strategy:
    """Line search between the router's weights and the neighbors' mean."""
    return Strategy(
        "kernel_regression_alpha",
        selector_of(neighborhood),
        kernel_of(neighborhood),
        Neighborhood(),
        LineSearch(line_search.evaluations),
        free_space(space),
    )


def ngd(
    neighborhood: NeighborhoodSettings,
    descent: DescentSettings,
    space: UpdateSpace,
    fragile: FragileSettings = ALL_SAMPLES,
) -> Strategy:
    """Neighborhood gradient descent: gradient descent on the loss of the neighbors' answers."""
    selector, kernel = selector_of(neighborhood), kernel_of(neighborhood)
    search, restriction = descent_of(descent), fragile_of(fragile)
    return Strategy("ngd", selector, kernel, Neighborhood(), search, space, fragile=restriction)


def random_neighbors(neighborhood: NeighborhoodSettings, descent: DescentSettings, space: UpdateSpace) -> Strategy:
    """Control: as ngd, with randomly drawn references as neighbors."""
    selector, kernel = RandomNeighbors(neighborhood.k), kernel_of(neighborhood)
    return Strategy("random_neighbors", selector, kernel, Neighborhood(), descent_of(descent), space)


def shuffled_references(neighborhood: NeighborhoodSettings, descent: DescentSettings, space: UpdateSpace) -> Strategy:
    """Control: as ngd, with each neighbor replaced by an unrelated reference."""
    selector, kernel = ShuffledNeighbors(neighborhood.k), kernel_of(neighborhood)
    return Strategy("shuffled_references", selector, kernel, Neighborhood(), descent_of(descent), space)


def best_of_n(generation: GenerationSettings, best_of_n: BestOfNSettings, space: UpdateSpace) -> Strategy:
    """Of several randomly drawn routings, the one with the highest confidence in its own answer."""
    objective, search = SelfConfidence(generation.max_new_tokens), RandomSearch(best_of_n.candidates)
    return Strategy("best_of_n", objective=objective, search=search, space=free_space(space))


def oracle(descent: DescentSettings, space: UpdateSpace) -> Strategy:
    """Label-searched: gradient descent on the loss of the test sample's own answer."""
    return Strategy("oracle", objective=Oracle(), search=descent_of(descent), space=space)


def oracle_permuted(descent: DescentSettings, space: UpdateSpace) -> Strategy:
    """Permuted labels: as oracle, with the label of another question, which also counts as the right answer."""
    return Strategy("oracle_permuted", objective=PermutedOracle(), search=descent_of(descent), space=space)


def base_permuted() -> Strategy:
    """Permuted labels: the unmodified model, scored by the labels of oracle_permuted."""
    return Strategy("base_permuted", objective=PermutedOracle())


PAPER_STRATEGIES: dict[str, StrategyFactory] = {
    "base": base,
    "router_mean": router_mean,
    "uniform": uniform,
    "task_routing": task_routing,
    "mode_finding": mode_finding,
    "kernel_regression": kernel_regression,
    "kernel_regression_alpha": kernel_regression_alpha,
    "random_neighbors": random_neighbors,
    "shuffled_references": shuffled_references,
    "ngd": ngd,
    "best_of_n": best_of_n,
    "oracle": oracle,
    "oracle_permuted": oracle_permuted,
    "base_permuted": base_permuted,
    "gate_finetuned": gate_finetuned,
}


# The loss atlas (docs/atlas.md).


def _on_neighbors(
    name: str, neighborhood: NeighborhoodSettings, atlas: AtlasSettings, space: UpdateSpace, search: Search
) -> Strategy:
    return Strategy(
        name,
        NearestNeighbors(atlas.k),
        kernel_of(neighborhood),
        search=search,
        space=dataclasses.replace(space, kind="simplex"),
        atlas=AtlasConfig("neighbors", atlas.loss),
    )


def _softmin(atlas: AtlasSettings, hard: bool = False) -> AtlasSoftmin:
    return AtlasSoftmin(atlas.temperature, atlas.proximal_weight, atlas.bandwidth, atlas.min_gain, hard)


def atlas_softmin(
    neighborhood: NeighborhoodSettings,
    atlas: AtlasSettings,
    space: UpdateSpace,
    fragile: FragileSettings = ALL_SAMPLES,
) -> Strategy:
    """Softmin-weighted mean of the loss atlas's points under the neighbors' losses."""
    strategy = _on_neighbors("atlas", neighborhood, atlas, space, _softmin(atlas))
    return dataclasses.replace(strategy, fragile=fragile_of(fragile))


def atlas_argmin(neighborhood: NeighborhoodSettings, atlas: AtlasSettings, space: UpdateSpace) -> Strategy:
    """The point of the loss atlas with the lowest loss of the neighbors."""
    return _on_neighbors("atlas_argmin", neighborhood, atlas, space, _softmin(atlas, hard=True))


def atlas_taylor(
    neighborhood: NeighborhoodSettings, atlas: AtlasSettings, atlas_taylor: AtlasTaylorSettings, space: UpdateSpace
) -> Strategy:
    """Control: one step along the neighbors' stored gradients.

    Raises:
        R2T2Error: the loss is not bounded.
    """
    if atlas.loss != "bounded":
        raise R2T2Error(
            "atlas_taylor needs slopes of the loss, and a bank stores those of the bounded loss only: set atlas.loss "
            "to bounded"
        )
    search = AtlasTaylor(atlas_taylor.proximal_weight)
    return _on_neighbors("atlas_taylor", neighborhood, atlas, space, search)


def atlas_mlp(atlas: AtlasSettings, space: UpdateSpace) -> Strategy:
    """Control: as atlas, with losses predicted by a small network."""
    space = dataclasses.replace(space, kind="simplex")
    return Strategy("atlas_mlp", search=_softmin(atlas), space=space, atlas=AtlasConfig("mlp", atlas.loss))


def best_fixed(atlas: AtlasSettings, space: UpdateSpace) -> Strategy:
    """Control: the one point of the loss atlas with the lowest mean loss over all references."""
    space = dataclasses.replace(space, kind="simplex")
    return Strategy("best_fixed", search=AtlasArgmin(), space=space, atlas=AtlasConfig("mean", atlas.loss))


ATLAS_STRATEGIES: dict[str, StrategyFactory] = {
    "atlas": atlas_softmin,
    "atlas_argmin": atlas_argmin,
    "atlas_taylor": atlas_taylor,
    "atlas_mlp": atlas_mlp,
    "best_fixed": best_fixed,
}
