"""The cost of every method per sample: model evaluations, FLOPs, memory. From shapes; nothing is allocated.

A sample is one question from its raw image and text to its answer. FLOPs are 2 x multiply-add of products and
convolutions, counted on the traced programs:

    base, as written          the naive forward pass, which computes every row of every layer: the unit
    base                      own + answer               own       prepare and encode the sample
    other methods             own + route + search       answer    the loss under the router's own weights
                              + evaluation               route     the router's own pass, which gives r0
    ngd, variant by variant   own + route + K once       search    the program of the method (`costs.prediction`)
                              + S K step + evaluation    evaluation  the loss under given weights

with K neighbors, S steps, and `once` and `step` of a variant (`contract.CostVariant`). Embedding the question and
retrieving its neighbors are not counted.

Letters: K neighbors, S steps, G atlas points, N references, L routed layers, E experts, M embedding size.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import jax
from jax.extend import core

from r2t2_jax.bank.build_atlas import AtlasPlan
from r2t2_jax.contract import FIRST_PASS, Costs, CostVariant, LossModel, ModelShapes, Params, RoutedLoss
from r2t2_jax.costs.jaxpr import Scopes, count_flops, flops_by_scope, flops_within
from r2t2_jax.costs.prediction import CostPrediction, abstract_batch, floats
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing
from r2t2_jax.runtime.pytrees import tree_bytes

FLOAT = 4  # bytes
WRITTEN = "base_as_written"


@dataclass(frozen=True)
class CostSettings:
    """The sizes that costs depend on. The defaults are the paper's and the atlas's.

    Args:
        neighbors: K.
        steps: S.
        points: G, of the atlas.
        references: N, over which the cost of building the atlas is spread.
        line_evaluations: evaluations of the line search for alpha.
        embedding: M, NV-Embed-v2's.

    Raises:
        R2T2Error: a number is not positive.
    """

    neighbors: int = 5
    steps: int = 10
    points: int = 16
    references: int = 5000
    line_evaluations: int = 10
    embedding: int = 4096

    def __post_init__(self) -> None:
        for entry in fields(self):
            if getattr(self, entry.name) < 1:
                raise R2T2Error(f"a cost with {entry.name} {getattr(self, entry.name)}; it must be at least 1")


@dataclass(frozen=True)
class MethodCost:
    """The cost of one method.

    Args:
        method: name of the strategy, or of a variant of NGD.
        about: a description.
        evaluations: forward passes per sample that depend on r; a value with its gradient counts two.
        flops: per sample.
        activations: bytes that the forward pass of one (sample, neighbor) keeps for its backward pass; `None` without a
            backward pass.
        stored: bytes per reference; zero for methods without references.
    """

    method: str
    about: str
    evaluations: int
    flops: int
    activations: int | None
    stored: int


@dataclass(frozen=True)
class AtlasBuildCost:
    """The cost of building the atlas, before the first sample.

    Args:
        per_reference: FLOPs to encode a reference, evaluate its loss at every point, and compute its gradient once.
        choosing: FLOPs of the losses at all candidate points, over all references among which points are chosen.
        break_even: samples after which the atlas has cost less than the cheapest variant of NGD; `None` if never.
    """

    per_reference: int
    choosing: int
    break_even: int | None


@dataclass(frozen=True)
class CostTable:
    """The costs of all methods on one model.

    Args:
        model: its name.
        settings: the sizes.
        rows: methods; the naive base first, then the base as the port runs it.
        variants: NGD, from the naive variant to the cheapest.
        building: the atlas.
        parts: FLOPs of the naive base by named scope of the port.
    """

    model: str
    settings: CostSettings
    rows: tuple[MethodCost, ...]
    variants: tuple[MethodCost, ...]
    building: AtlasBuildCost
    parts: Counter[Scopes]

    @property
    def base(self) -> MethodCost:
        """The unit: one answer of the untouched model, without any saving."""
        return self.rows[0]

    def times_base(self, row: MethodCost) -> float:
        return row.flops / self.base.flops


@dataclass(frozen=True)
class PassFlops:
    """FLOPs of a model's passes over one sample.

    Args:
        prepare: raw sample to the inputs of `encode`; 0 where they are the same.
        first_pass: the part of `prepare` that references do not need (`contract.FIRST_PASS`).
        encode: `RoutedModel.encode`.
        route: `RoutedModel.route`, the router's own pass over features.
        answer: `answer_loss` under the router's own weights.
        rerouted_loss: `answer_loss` under given weights: one evaluation.
    """

    prepare: int
    first_pass: int
    encode: int
    route: int
    answer: int
    rerouted_loss: int

    @property
    def own(self) -> int:
        """Everything before routing."""
        return self.prepare + self.encode


def count_passes(shapes: ModelShapes) -> PassFlops:
    """FLOPs of a model's passes, counted on their traced programs.

    Raises:
        R2T2Error: the model's shapes have no `costs`.
    """
    costs, model, params = _costs(shapes), shapes.model, shapes.params
    inputs, prepare = costs.raw, Counter[Scopes]()
    if costs.prepare is not None:
        program, inputs = jax.make_jaxpr(costs.prepare, return_shape=True)(params, costs.raw)
        prepare = flops_by_scope(program)

    def loss(params: Params, features: Any, answer: Any, r: Any = None) -> Any:
        return model.answer_loss(params, features, None if r is None else Routing(r), answer)

    own, r = (params, shapes.features, shapes.answer), floats(*model.spec.shape)
    return PassFlops(
        prepare=prepare.total(),
        first_pass=flops_within(prepare, FIRST_PASS),
        encode=_flops(model.encode, params, inputs),
        route=_flops(model.route, params, shapes.features),
        answer=_flops(loss, *own),
        rerouted_loss=_flops(loss, *own, r),
    )


def _flops(function: Any, *arguments: Any) -> int:
    return count_flops(jax.make_jaxpr(function)(*arguments))


def _costs(shapes: ModelShapes) -> Costs:
    if shapes.costs is None:
        raise R2T2Error(f"{shapes.name} has no cost functions: its shapes have no `costs` (contract.ModelShapes)")
    return shapes.costs


def cost_table(shapes: ModelShapes, settings: CostSettings) -> CostTable:
    """The costs of a model's methods.

    Raises:
        R2T2Error: the model's shapes have no `costs`.
    """
    costs, passes, traces = _costs(shapes), count_passes(shapes), VariantTraces(shapes)
    layers, experts = shapes.model.spec.shape
    routing, embedding = FLOAT * layers * experts, FLOAT * settings.embedding
    naive, cheapest = costs.variants[0], costs.variants[-1]
    parts = flops_by_scope(jax.make_jaxpr(naive.loss)(*traces.arguments(naive)))
    fixed = passes.own + passes.route + passes.rerouted_loss
    neighbor_bytes = embedding + routing + traces.kept_bytes(cheapest)

    def row(name: str, about: str, stored: int, variant: CostVariant | None = None) -> MethodCost:
        """A strategy's program on the port's own loss, or on the loss of a variant."""
        method = strategy(name, _preset(settings))
        batch = abstract_batch(shapes, method, points=settings.points)
        model: RoutedLoss = shapes.model
        params = shapes.params
        if variant is not None:
            model, params = traces.loss_model(variant), variant.params
            queries = dataclasses.replace(batch.queries, features=_one(traces.kept(variant)))
            batch = batch._replace(queries=queries)
        cost = CostPrediction(method, model, params, batch).cost
        backward = None if variant is None else traces.backward_bytes(variant)
        return MethodCost(name, about, cost.evaluations, fixed + cost.flops, backward, stored)

    line = settings.line_evaluations
    rows = (
        MethodCost(WRITTEN, "a forward pass without any saving", 1, passes.first_pass + parts.total(), None, 0),
        MethodCost("base", "the untouched model as the port runs it", 1, passes.own + passes.answer, None, 0),
        row("mode_finding", "mean shift among the references' r", routing),
        row("kernel_regression", "the kernel mean of the neighbors' r", embedding + routing),
        row(
            "kernel_regression_alpha",
            f"{line} evaluations of the neighborhood's loss between r0 and that mean",
            neighbor_bytes,
        ),
        row("oracle", "the same descent on the loss of the test question's own answer", 0, cheapest),
        row("atlas", "reads the table of losses", embedding + settings.points),
    )
    k, steps = settings.neighbors, settings.steps
    variants = tuple(
        MethodCost(
            variant.name,
            variant.about,
            2 * steps * k + 2,
            fixed + k * (0 if variant.stored else traces.once_flops(variant)) + steps * k * traces.step_flops(variant),
            traces.backward_bytes(variant),
            embedding + traces.kept_bytes(variant),
        )
        for variant in costs.variants
    )
    building = _building(shapes, settings, passes, traces, saved=variants[-1].flops - rows[-1].flops)
    return CostTable(shapes.name, settings, rows, variants, building, parts)


def _preset(settings: CostSettings) -> Preset:
    k = settings.neighbors
    return Preset.from_mapping(
        {
            "neighborhood.k": k,
            "mode.k": k,
            "atlas.k": k,
            "descent.steps": settings.steps,
            "line_search.evaluations": settings.line_evaluations,
        }
    )


def _one(tree: Any) -> Any:
    """Shapes with a leading axis of one sample."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), tree)


def _building(
    shapes: ModelShapes, settings: CostSettings, passes: PassFlops, traces: VariantTraces, saved: int
) -> AtlasBuildCost:
    """The cost of the atlas; `saved` FLOPs per sample pay it back. NGD's features are also encoded in advance."""
    from r2t2_jax.method.search.atlas_points import max_candidates

    plan, cheapest = AtlasPlan(), _costs(shapes).variants[-1]
    candidates = max_candidates(shapes.model.spec, plan.drawn, plan.seed)
    per_reference = passes.own + settings.points * passes.rerouted_loss + traces.step_flops(cheapest)
    choosing = min(plan.choosing, settings.references) * candidates * passes.rerouted_loss
    once = traces.once_flops(cheapest) if cheapest.stored else 0
    more = settings.references * (per_reference - once) + choosing
    return AtlasBuildCost(per_reference, choosing, math.ceil(more / saved) if saved > 0 else None)


@dataclass(frozen=True)
class VariantTraces:
    """FLOPs and memory of the variants of NGD, traced at their shapes; what variants share is traced once."""

    shapes: ModelShapes
    _once: dict[Any, tuple[int, Any]] = field(default_factory=dict)
    _step: dict[Any, tuple[int, int]] = field(default_factory=dict)

    def kept(self, variant: CostVariant) -> Any:
        """Shapes of what `once` returns for a reference."""
        return self._trace_once(variant)[1]

    def once_flops(self, variant: CostVariant) -> int:
        """FLOPs of `once`."""
        return self._trace_once(variant)[0]

    def kept_bytes(self, variant: CostVariant) -> int:
        """Bytes of what is kept of a reference: `kept` and its answer."""
        return tree_bytes((self.kept(variant), self.shapes.answer))

    def arguments(self, variant: CostVariant) -> tuple[Any, ...]:
        """Shapes of the arguments of a variant's loss: r, parameters, what is kept, the answer."""
        return floats(*self.shapes.model.spec.shape), variant.params, self.kept(variant), self.shapes.answer

    def loss_model(self, variant: CostVariant) -> LossModel:
        """A variant's loss as a model; its features are what is kept of the sample."""
        return LossModel(lambda params, kept, r, answer: variant.loss(r, params, kept, answer), self.shapes.model.spec)

    def step_flops(self, variant: CostVariant) -> int:
        """FLOPs of the loss and its gradient."""
        return self._trace_step(variant)[0]

    def backward_bytes(self, variant: CostVariant) -> int:
        """Bytes that the loss keeps for its backward pass, its own arguments excluded."""
        return self._trace_step(variant)[1]

    def _trace_once(self, variant: CostVariant) -> tuple[int, Any]:
        if variant.once not in self._once:
            program, kept = jax.make_jaxpr(variant.once, return_shape=True)(variant.params, _costs(self.shapes).raw)
            self._once[variant.once] = count_flops(program), kept
        return self._once[variant.once]

    def _trace_step(self, variant: CostVariant) -> tuple[int, int]:
        known = variant.once, variant.loss, variant.every_gradient
        if known not in self._step:
            self._step[known] = _trace_step(variant, self.arguments(variant))
        return self._step[known]


def _trace_step(variant: CostVariant, arguments: tuple[Any, ...]) -> tuple[int, int]:
    """FLOPs of the loss and its gradient, and bytes kept between the forward and the backward pass."""
    differentiated = 2 if variant.every_gradient else 1  # r, and the parameters

    def loss_and_gradient(*arguments: Any) -> Any:
        first, rest = arguments[:differentiated], arguments[differentiated:]
        loss, backward = jax.vjp(lambda *first: variant.loss(*first, *rest), *first)
        return jax.tree.leaves(backward), backward(jax.numpy.ones_like(loss))

    program, (residuals, _) = jax.make_jaxpr(loss_and_gradient, return_shape=True)(*arguments)
    inputs = {*program.jaxpr.invars, *program.jaxpr.constvars}
    outputs = program.jaxpr.outvars[: len(residuals)]
    residual_variables = {variable for variable in outputs if isinstance(variable, core.Var)} - inputs
    return count_flops(program), tree_bytes([variable.aval for variable in residual_variables])


def cost_record(table: CostTable) -> dict[str, Any]:
    """A table ready for JSON, in FLOPs and bytes."""

    def record(row: MethodCost) -> dict[str, Any]:
        return {**dataclasses.asdict(row), "times_base": round(table.times_base(row), 3)}

    return {
        "model": table.model,
        "scale": dataclasses.asdict(table.settings),
        "methods": [record(row) for row in table.rows],
        "ngd": [record(row) for row in table.variants],
        "atlas_offline": dataclasses.asdict(table.building),
    }
