"""Builds the loss atlas of a bank: choose G routing points, then compute the loss of every reference at each of them.

The work is a resumable run: after an interruption the same call continues, and the atlas has the same bytes.

Axis letters: N references, n of them, B a batch of them, P candidate points, G chosen points, K neighbors,
L routed layers, E experts.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas, check_atlas_folder, quantize, save_atlas
from r2t2_jax.bank.reference_bank import kernel_weights
from r2t2_jax.bank.storage import manifest_digest
from r2t2_jax.contract import Answer, Features, Params, RoutedLoss, condition, default_vmap_size, support_of
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.method.search.atlas_points import (
    PointsKind,
    PointsMode,
    bounded,
    candidate_points,
    choose_points,
    mixed,
    points_mode,
    reference_mixtures,
    reference_shifts,
)
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys, select
from r2t2_jax.routing import Mode, Routing, RoutingSpec, restrict
from r2t2_jax.runs.atomic_io import remove
from r2t2_jax.runs.batch_files import stack as stack_rows
from r2t2_jax.runs.cluster import Workers, devices_of
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Rows, Run
from r2t2_jax.runs.workers import Timing, WorkerPool, WorkerProgram, open_pool
from r2t2_jax.runtime.batching import compute_ahead, map_in_chunks, threads_at_a_time
from r2t2_jax.runtime.progress import progress_bar

COMMAND = "bank atlas"
CHOOSING, TABULATING = "candidates", "references"


@dataclass(frozen=True)
class AtlasPlan:
    """Settings of building an atlas.

    Args:
        points: number of routing points, G.
        drawn: number of random candidate points, in addition to the structured ones.
        choosing: number of references, evenly spaced over the bank, on which the points are chosen.
        k: number of neighbors of a left-out reference.
        batch: references per batch.
        seed: of the random candidates.
        kind: of the points, as for `points_mode`.

    Raises:
        R2T2Error: a number is below 1.
    """

    points: int = 16
    drawn: int = 106
    choosing: int = 1000
    k: int = 20
    batch: int = 48
    seed: int = 0
    kind: PointsKind = "auto"

    def __post_init__(self) -> None:
        for name in ("points", "choosing", "k", "batch"):
            if getattr(self, name) < 1:
                raise R2T2Error(f"{name} of an atlas must be at least 1, not {getattr(self, name)}")


@partial(jax.jit, static_argnames=("model", "mode", "vmap_size"))
def losses_at(
    params: Params,
    features: Features,
    answers: Answer,
    points: Float[Array, "P L E"],
    *,
    model: RoutedLoss,
    mode: Mode = "replace",
    vmap_size: int = 1,
) -> Float[Array, "B P"]:
    """Bounded losses of a batch of references at every point: one forward pass each.

    `vmap_size` references, and as many points of each, are computed together.
    """

    def sample(reference: tuple[Features, Answer]) -> Float[Array, "P"]:
        features, answer = reference
        features = condition(model, params, features, answer)

        def loss(point: Float[Array, "L E"]) -> Float[Array, ""]:
            return model.answer_loss(params, features, Routing(point, mode), answer)

        return map_in_chunks(loss, points, vmap_size)

    return bounded(map_in_chunks(sample, (features, answers), vmap_size))


@partial(jax.jit, static_argnames=("model", "vmap_size"))
def losses_at_mixtures(
    params: Params,
    features: Features,
    answers: Answer,
    routing: Float[Array, "B L E"],
    points: Float[Array, "P L E"],
    *,
    model: RoutedLoss,
    vmap_size: int = 1,
) -> Float[Array, "B P"]:
    """As `losses_at`, at the mixtures of every point with each reference's own `routing`, on its support."""
    reads_support = getattr(model, "reads_support", False)

    def sample(reference: tuple[Features, Answer, Float[Array, "L E"]]) -> Float[Array, "P"]:
        features, answer, own = reference
        features = condition(model, params, features, answer)
        support = support_of(model, features, own)
        weights = restrict(model.spec, mixed(model.spec, points, own), support)

        def loss(r: Float[Array, "L E"]) -> Float[Array, ""]:
            routing = Routing(r, support=support if reads_support else None)
            return model.answer_loss(params, features, routing, answer)

        return map_in_chunks(loss, weights, vmap_size)

    return bounded(map_in_chunks(sample, (features, answers, routing), vmap_size))


@partial(jax.jit, static_argnames=("model", "mode", "vmap_size"))
def slopes_at(
    params: Params,
    features: Features,
    answers: Answer,
    routing: Float[Array, "B L E"],
    *,
    model: RoutedLoss,
    mode: Mode = "replace",
    vmap_size: int = 1,
) -> Float[Array, "B L E"]:
    """Gradients of the bounded losses with respect to r, at each reference's own routing (a shift of zero)."""

    def sample(reference: tuple[Features, Answer, Float[Array, "L E"]]) -> Float[Array, "L E"]:
        features, answer, own = reference
        return jax.grad(lambda r: bounded(model.answer_loss(params, features, Routing(r, mode), answer)))(own)

    return map_in_chunks(sample, (features, answers, routing), vmap_size)


def leave_one_out(
    losses: Float[np.ndarray, "n P"], embeddings: Float[np.ndarray, "n M"], k: int
) -> Float[np.ndarray, "n P"]:
    """The kernel-weighted loss of the k nearest other references of each reference, at every point.

    Raises:
        R2T2Error: there are at most k references.
    """
    n = len(losses)
    if n <= k:
        raise R2T2Error(f"{n} references are too few for {k} neighbors each; give more references or a smaller k")
    neighbors = select(NearestNeighbors(k + 1), ExactIndex.build(embeddings), embeddings, sample_keys(0, np.arange(n)))
    indices = np.asarray(neighbors.indices)
    others = np.asarray(neighbors.mask) & (indices != np.arange(n)[:, None])
    # Of several equal questions, one may be missing from its own k + 1 nearest: then the last neighbor is dropped.
    others[:, -1] &= (indices == np.arange(n)[:, None]).any(axis=1)
    weights = np.asarray(kernel_weights(Gaussian(), neighbors.distances, neighbors.dots, jnp.asarray(others)))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    return np.stack([row @ losses[rows] for row, rows in zip(weights, indices, strict=True)])


@dataclass(frozen=True)
class AtlasWork:
    """Computes the rows of a batch of references; the same in one process and on a Ray worker.

    Args:
        model, params: the model that built the bank.
        bank: all references, answered correctly or not, with ids in their records and with features.
        plan: the settings.
    """

    model: RoutedLoss
    params: Params
    bank: ReferenceBank
    plan: AtlasPlan

    @cached_property
    def choosing(self) -> Int[np.ndarray, "n"]:
        """The references on which the points are chosen."""
        return choosing_references(len(self.bank), self.plan)

    @property
    def mode(self) -> PointsMode:
        """Of the points; a model without a gate, given by its loss, takes weights only."""
        return points_mode(self.model.spec, self.plan.kind, hasattr(self.model, "route"))

    @cached_property
    def candidates(self) -> Float[np.ndarray, "P L E"]:
        """The candidate points."""
        return candidates_of(self.model.spec, self.bank, self.plan, self.mode)

    def choose(self, losses: Float[np.ndarray, "n P"]) -> Float[np.ndarray, "G L E"]:
        """The points, chosen by the losses of the references `choosing` at all candidates."""
        neighborhood = leave_one_out(losses, np.asarray(self.bank.embeddings[self.choosing]), self.plan.k)
        return self.candidates[choose_points(losses, neighborhood, self.plan.points)]

    def atlas(
        self, points: Float[np.ndarray, "G L E"], losses: UInt8[np.ndarray, "N G"], slopes: Float[np.ndarray, "N L E"]
    ) -> Atlas:
        """The atlas of all references."""
        return Atlas(
            points=points,
            losses=losses,
            slopes=slopes,
            model_fingerprint=self.bank.model_fingerprint,
            experts=self.model.spec.experts,
            ids=tuple(str(record["id"]) for record in self.bank.records),
            mode=self.mode,
            bank="" if self.bank.folder is None else manifest_digest(self.bank.folder),
        )

    def rows(self, batch: Batch, points: Float[np.ndarray, "P L E"]) -> Rows:
        """The losses of the batch's references at the points; for the atlas itself quantized, with their slopes.

        Raises:
            R2T2Error: a loss is NaN.
        """
        chosen = batch.part == CHOOSING
        rows = self.choosing[batch.start : batch.stop] if chosen else np.arange(batch.start, batch.stop)
        ids = [str(self.bank.records[i]["id"]) for i in rows.tolist()]
        arrays = self.bank.samples(_pad(rows, self.plan.batch))
        routing = self.bank.routing[_pad(rows, self.plan.batch)]
        static: dict[str, Any] = {"model": self.model, "vmap_size": default_vmap_size(self.model)}
        if self.mode == "mixture":
            losses = losses_at_mixtures(self.params, *arrays, routing, points, **static)
        else:
            losses = losses_at(self.params, *arrays, points, mode=self.mode, **static)
        losses = np.asarray(losses)[: len(rows)]
        table = quantize(losses, ids)  # raises on NaN
        if chosen:
            return [{"losses": row} for row in losses]
        mode: Mode = "shift" if self.mode == "shift" else "replace"
        routing = np.zeros_like(routing) if mode == "shift" else routing
        slopes = slopes_at(self.params, *arrays, routing, mode=mode, **static)
        slopes = np.asarray(slopes, np.float16)[: len(rows)]
        return [{"losses": row, "slopes": slope} for row, slope in zip(table, slopes, strict=True)]

    def __call__(self, batch: Batch, points: Float[np.ndarray, "P L E"]) -> tuple[Rows, list[Timing]]:
        """The rows, as a worker returns them."""
        return self.rows(batch, points), []


def choosing_references(references: int, plan: AtlasPlan) -> Int[np.ndarray, "n"]:
    """The references on which the points are chosen, evenly spaced over the bank."""
    return np.unique(np.linspace(0, references - 1, min(plan.choosing, references)).astype(int))


def check_enough_references(references: int, plan: AtlasPlan) -> None:
    """Check, before any work is done, that the references on which points are chosen have enough neighbors.

    Raises:
        R2T2Error: they are at most `plan.k`.
    """
    count = min(plan.choosing, references)
    if count <= plan.k:
        raise R2T2Error(f"{count} references are too few for {plan.k} neighbors each; use a smaller k")


def atlas_parts(references: int, plan: AtlasPlan) -> list[Part]:
    """The parts of the run: the references on which points are chosen, then all references."""
    choosing = len(choosing_references(references, plan))
    return [Part(CHOOSING, choosing, plan.batch, CHOOSING), Part(TABULATING, references, plan.batch, TABULATING)]


def build_atlas(
    model: RoutedLoss,
    params: Params,
    bank: ReferenceBank,
    folder: Path,
    plan: AtlasPlan,
    max_hours: float | None = None,
    workers: Workers | None = None,
    program: WorkerProgram | None = None,
) -> Atlas:
    """Build the atlas of a bank and save it; until it is complete, the run is kept in `<folder>-in-progress`.

    Args:
        model, params: the model that built the bank.
        bank: all references, answered correctly or not, with ids in their records and with features.
        folder: folder of the atlas: `atlas/` in the bank's directory.
        plan: the settings.
        max_hours: time limit from now.
        workers: Ray workers that compute the losses; `None` for this process.
        program: of the workers; its work is an `AtlasWork`.

    Returns:
        The complete atlas.

    Raises:
        R2T2Error: the bank is too small, a loss is NaN, or the folder holds something else or cannot be written.
        RunInterrupted: a signal was received or the time limit is reached.
    """
    check_atlas_folder(folder)
    built_for = "" if bank.folder is None else manifest_digest(bank.folder)
    depends = {
        "model": bank.model_fingerprint,
        "embedder": bank.embedder_fingerprint,
        "bank": {"digest": built_for},
        "versions": versions(devices_of(workers)),
    }
    check_enough_references(len(bank), plan)
    work = AtlasWork(model, params, bank, plan)
    candidates = work.candidates
    folder_of_run = folder.with_name(f"{folder.name}-in-progress")
    with ExitStack() as stack:
        opened = Run.open(folder_of_run, COMMAND, asdict(plan), Plan(atlas_parts(len(bank), plan)), depends, max_hours)
        run = stack.enter_context(opened)
        pool = stack.enter_context(open_pool(workers, program)) if workers and program else None

        _compute_part(run, pool, work, CHOOSING, candidates, "choose points")
        points = work.choose(stack_rows(run.table(CHOOSING)["losses"]))
        _compute_part(run, pool, work, TABULATING, points, "loss atlas")
        table = run.table(TABULATING)
        atlas = work.atlas(points, stack_rows(table["losses"]), stack_rows(table["slopes"]))
        save_atlas(atlas, folder, asdict(plan))
        run.finish({"points": len(points), "references": len(bank)})
    remove(folder_of_run)
    return atlas


def compute_atlas(model: RoutedLoss, params: Params, bank: ReferenceBank, plan: AtlasPlan) -> Atlas:
    """The atlas of a bank in memory, without files; its references need no records.

    Raises:
        R2T2Error: the bank is too small, or a loss is NaN.
    """
    records = bank.records
    if not all("id" in record for record in records) or not records:
        records = [{"id": f"reference {i}"} for i in range(len(bank))]
    work = AtlasWork(model, params, replace(bank, records=records, atlas=None), plan)
    parts = Plan(atlas_parts(len(bank), plan))

    def rows(part: str, points: Float[np.ndarray, "P L E"]) -> Rows:
        batches = [batch for batch in parts.batches if batch.part == part]
        with progress_bar(len(batches), f"loss atlas: {part}") as progress:
            tables = []
            for batch in batches:
                tables.append(work.rows(batch, points))
                progress.update()
        return [row for table in tables for row in table]

    points = work.choose(np.stack([row["losses"] for row in rows(CHOOSING, work.candidates)]))
    table = rows(TABULATING, points)
    return work.atlas(points, np.stack([row["losses"] for row in table]), np.stack([row["slopes"] for row in table]))


def _compute_part(
    run: Run, pool: WorkerPool | None, work: AtlasWork, part: str, points: Float[np.ndarray, "P L E"], title: str
) -> None:
    """Compute the missing batches of a part, the losses at `points`, on the workers of `pool` or in this process."""
    if pool is None:
        computed = compute_ahead(lambda batch: work.rows(batch, points), run.todo([part]), threads_at_a_time())
        for batch, table in zip(run.missing([part], title), computed, strict=True):
            run.append(batch, table)
        return
    bank = work.bank
    rows = work.choosing if part == CHOOSING else np.arange(len(bank))

    def names(batch: Batch) -> str:
        return "references " + ", ".join(
            repr(str(bank.records[i]["id"])) for i in rows[batch.start : batch.stop].tolist()
        )

    pool.compute(run, [part], lambda batch: points, names, title)


def candidates_of(
    spec: RoutingSpec, bank: ReferenceBank, plan: AtlasPlan, mode: PointsMode
) -> Float[np.ndarray, "P L E"]:
    """The candidate points: of the routing space, or shifts or mixtures that the correct references give."""
    if mode == "replace":
        return candidate_points(spec, plan.drawn, plan.seed)
    correct = bank.only_correct()
    categories = [str(record.get("category") or "") for record in correct.records]
    routing = np.asarray(correct.routing)
    if mode == "mixture":
        return reference_mixtures(spec, routing, categories, plan.seed)
    return reference_shifts(routing, categories, plan.seed)


def _pad(rows: Int[np.ndarray, "n"], size: int) -> Int[np.ndarray, "size"]:
    """The rows padded with the last one, so that all batches have one shape."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))])
