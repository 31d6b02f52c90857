"""What every method costs a case: model evaluations, FLOPs, memory. From shapes alone; nothing is allocated.

A case is one question from its raw image and text to its answer. FLOPs are 2 x multiply-add of products, convolutions:

    base, as written          a plain pass that leaves nothing out: the unit
    base                      own + answer                        own      prepare and encode the question itself
    mode finding              own + route + evaluation            answer   under the router's own weights
    kernel regression         own + route + evaluation            route    the router's own pass, which gives r0
    + alpha                   own + route + (n K + 1) evaluations evaluation   the loss under given weights
    ngd, rung by rung         own + route + K once + S K step + evaluation
    oracle                    own + route + S step + evaluation
    atlas                     own + route + evaluation

with K neighbours, S steps, n evaluations of the line search, and `once` and `step` of the port's ladder
(`contract.Rung`). Sums over routing vectors and table rows are counted too, though they round to nothing. Embedding the
question and finding its neighbours are left out: they are the embedder's and the index's.

Letters: K neighbours, S steps, G atlas points, N references, L routed layers, E experts, M embedding size.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from r2t2_jax.bank.build_atlas import AtlasPlan
from r2t2_jax.contract import Costs, CostVariant, ModelShapes
from r2t2_jax.errors import R2T2Error
from r2t2_jax.runtime.memory import tree_bytes

FLOAT = 4  # bytes
WRITTEN = "base_as_written"


@dataclass(frozen=True)
class Scale:
    """How much of everything. The defaults are the paper's, and the atlas's.

    Args:
        neighbors: K.
        steps: S.
        points: G, of the atlas.
        references: N, over which the atlas's making is spread.
        line_evaluations: n, of the line search for alpha.
        embedding: M, numbers of a question's embedding; NV-Embed-v2's.

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
class Row:
    """What one method costs.

    Args:
        method: its name among the strategies; for a rung of NGD what the rung saves.
        about: what it is, in a sentence.
        evaluations: forward passes a case that depend on r, a value with its gradient counting two.
        flops: of a case.
        activations: bytes a (sample, neighbour) that the forward pass leaves for the backward pass; `None` without one.
        stored: bytes a reference; zero for methods without references.
    """

    method: str
    about: str
    evaluations: int
    flops: int
    activations: int | None
    stored: int


@dataclass(frozen=True)
class Offline:
    """What the atlas costs before the first case.

    Args:
        per_reference: encoding a reference, its loss at every point, its slope.
        choosing: the losses at all candidate points of the references among which points are chosen, in all.
        break_even: cases after which the atlas has cost less than NGD's cheapest rung; `None` if it never does.
    """

    per_reference: int
    choosing: int
    break_even: int | None


@dataclass(frozen=True)
class Ledger:
    """All rows of a model: the base as written and as the port runs it first, NGD rung by rung from the literal one."""

    model: str
    scale: Scale
    rows: tuple[Row, ...]
    rungs: tuple[Row, ...]
    offline: Offline

    @property
    def base(self) -> Row:
        """The unit: one answer of the untouched model, as written."""
        return self.rows[0]

    def times_base(self, row: Row) -> float:
        return row.flops / self.base.flops


def ledger(shapes: ModelShapes, scale: Scale) -> Ledger:
    """The costs of a model's methods.

    Raises:
        R2T2Error: the model's port says nothing of costs.
    """
    costs = shapes.costs
    if costs is None:
        raise R2T2Error(f"{shapes.name} says nothing of its costs: its shapes have no `costs` (contract.ModelShapes)")
    layers, experts = shapes.model.spec.shape
    routing = layers * experts
    own, pass_ = costs.prepare_flops + costs.encode_flops, costs.rerouted_loss_flops
    rerouted = own + costs.route_flops + pass_
    k, embedding = scale.neighbors, FLOAT * scale.embedding
    vector = embedding + FLOAT * routing
    cheapest = costs.ladder[-1]
    measure = Measure(shapes)
    step, kept = measure.backward_bytes(cheapest), measure.kept_bytes(cheapest)
    mean = 2 * k * routing  # the kernel mean of r
    atlas = 2 * k * scale.points + 2 * scale.points * routing

    line = scale.line_evaluations
    rows = (
        Row(WRITTEN, "a plain pass that leaves nothing out", 1, costs.first_pass_flops + costs.naive_flops, None, 0),
        Row("base", "the untouched model as the port runs it", 1, own + costs.answer_flops, None, 0),
        Row("mode_finding", "climbs among the references' r", 2, rerouted + 2 * mean, None, FLOAT * routing),
        Row("kernel_regression", "the kernel mean of the neighbours' r", 2, rerouted + mean, None, vector),
        Row(
            "kernel_regression_alpha",
            f"{line} evaluations of the neighbourhood's loss between r0 and that mean",
            line * k + 2,
            rerouted + mean + line * k * pass_,
            None,
            vector + kept,
        ),
        Row(
            "oracle",
            "the same steps down the loss of the test question's own answer",
            2 * scale.steps + 2,
            rerouted + scale.steps * cheapest.step_flops,
            step,
            0,
        ),
        Row("atlas", "reads the table of losses", 2, rerouted + atlas, None, embedding + scale.points),
    )
    rungs = tuple(
        Row(
            rung.name,
            rung.about,
            2 * scale.steps * k + 2,
            rerouted + k * (0 if rung.stored else rung.once_flops) + scale.steps * k * rung.step_flops,
            measure.backward_bytes(rung),
            embedding + measure.kept_bytes(rung),
        )
        for rung in costs.ladder
    )
    return Ledger(shapes.name, scale, rows, rungs, _offline(shapes, costs, scale, rungs[-1].flops - rows[-1].flops))


def _offline(shapes: ModelShapes, costs: Costs, scale: Scale, saved: int) -> Offline:
    """The atlas's making; `saved` FLOPs a case pay it back. Features that NGD reads are encoded offline as well."""
    from r2t2_jax.method.search.atlas_points import candidate_points

    plan, cheapest = AtlasPlan(), costs.ladder[-1]
    candidates = len(candidate_points(shapes.model.spec, plan.drawn, plan.seed))
    own = costs.prepare_flops + costs.encode_flops
    per_reference = own + scale.points * costs.rerouted_loss_flops + cheapest.step_flops
    choosing = min(plan.choosing, scale.references) * candidates * costs.rerouted_loss_flops
    more = scale.references * (per_reference - (cheapest.once_flops if cheapest.stored else 0)) + choosing
    return Offline(per_reference, choosing, math.ceil(more / saved) if saved > 0 else None)


@dataclass(frozen=True)
class Measure:
    """Memory of rungs, traced at their shapes. What rungs share is traced once."""

    shapes: ModelShapes
    _kept: dict[Any, Any] = field(default_factory=dict)
    _backward: dict[Any, int] = field(default_factory=dict)

    def kept(self, rung: CostVariant) -> Any:
        """Shapes of what `once` leaves of a reference."""
        if rung.once not in self._kept:
            assert self.shapes.costs is not None
            self._kept[rung.once] = jax.eval_shape(rung.once, rung.params, self.shapes.costs.raw)
        return self._kept[rung.once]

    def kept_bytes(self, rung: CostVariant) -> int:
        """Bytes of it, with the reference's answer."""
        return tree_bytes((self.kept(rung), self.shapes.answer))

    def arguments(self, rung: CostVariant) -> tuple[Any, ...]:
        """Shapes of what a rung's loss takes: r, parameters, what is kept, the answer."""
        r = jax.ShapeDtypeStruct(self.shapes.model.spec.shape, jnp.float32)
        return r, rung.params, self.kept(rung), self.shapes.answer

    def backward_bytes(self, rung: CostVariant) -> int:
        """Bytes which a rung's forward pass leaves for its backward pass, its own arguments not counted."""
        known = (rung.once, rung.loss, rung.every_gradient)
        if known not in self._backward:
            self._backward[known] = _left_behind(rung, self.arguments(rung))
        return self._backward[known]


def _left_behind(rung: CostVariant, arguments: tuple[Any, ...]) -> int:
    differentiated = 2 if rung.every_gradient else 1  # r, and the parameters

    def forward(*arguments: Any) -> Any:
        first, rest = arguments[:differentiated], arguments[differentiated:]
        return jax.tree.leaves(jax.vjp(lambda *first: rung.loss(*first, *rest), *first)[1])

    program = jax.make_jaxpr(forward)(*arguments).jaxpr
    given = {*program.invars, *program.constvars}
    left = {variable for variable in program.outvars if isinstance(variable, core.Var)} - given
    return tree_bytes([variable.aval for variable in left])


def ledger_record(found: Ledger) -> dict[str, Any]:
    """A ledger ready for JSON: FLOPs and bytes as they are."""

    def record(row: Row) -> dict[str, Any]:
        return {**dataclasses.asdict(row), "times_base": round(found.times_base(row), 3)}

    return {
        "model": found.model,
        "scale": dataclasses.asdict(found.scale),
        "methods": [record(row) for row in found.rows],
        "ngd": [record(row) for row in found.rungs],
        "atlas_offline": dataclasses.asdict(found.offline),
    }
