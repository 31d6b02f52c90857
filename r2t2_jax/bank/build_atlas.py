"""Make the loss atlas of a bank: choose G points on some references, then tabulate every reference there.

It runs on the engine for long work: killed at any point, the same call goes on, to the same bytes.

Axis letters: N references, n of them, B a batch of them, P candidate points, G chosen points, K neighbours,
L routed layers, E experts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.atlas import Atlas, quantize, save_atlas
from r2t2_jax.bank.reference_bank import kernel_weights
from r2t2_jax.contract import Answer, Features, Params, RoutedLoss
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian
from r2t2_jax.method.search.atlas_points import bounded, candidate_points, choose_points
from r2t2_jax.retrieval.exact import ExactIndex
from r2t2_jax.retrieval.neighbors import NearestNeighbors, sample_keys, select
from r2t2_jax.routing import Routing
from r2t2_jax.runs.atomic_io import remove
from r2t2_jax.runs.batch_files import stack
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Batch, Part, Plan
from r2t2_jax.runs.run import Rows, Run

CHOOSING, TABULATING = "candidates", "references"


@dataclass(frozen=True)
class AtlasPlan:
    """How an atlas is made.

    Args:
        points: how many routing points, G.
        drawn: candidates beside the structured ones.
        choosing: references, evenly spaced over the bank, on which the points are chosen.
        k: neighbours of a left-out reference.
        batch: references a batch.
        seed: of the drawn candidates.
    """

    points: int = 16
    drawn: int = 106
    choosing: int = 1000
    k: int = 20
    batch: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("points", "choosing", "k", "batch"):
            if getattr(self, name) < 1:
                raise R2T2Error(f"an atlas with {name} {getattr(self, name)}; it must be at least 1")


@partial(jax.jit, static_argnames="model")
def losses_at(
    params: Params, features: Features, answers: Answer, points: Float[Array, "P L E"], *, model: RoutedLoss
) -> Float[Array, "B P"]:
    """Bounded losses of a batch of references at every point: one forward each."""

    def sample(one: tuple[Features, Answer]) -> Float[Array, "P"]:
        features, answer = one
        return jax.lax.map(lambda point: model.answer_loss(params, features, Routing(point), answer), points)

    return bounded(jax.lax.map(sample, (features, answers)))


@partial(jax.jit, static_argnames="model")
def slopes_at(
    params: Params, features: Features, answers: Answer, routing: Float[Array, "B L E"], *, model: RoutedLoss
) -> Float[Array, "B L E"]:
    """Gradients of the bounded losses with respect to r, each at its reference's own routing."""

    def sample(one: tuple[Features, Answer, Float[Array, "L E"]]) -> Float[Array, "L E"]:
        features, answer, own = one
        return jax.grad(lambda r: bounded(model.answer_loss(params, features, Routing(r), answer)))(own)

    return jax.lax.map(sample, (features, answers, routing))


def leave_one_out(
    losses: Float[np.ndarray, "n P"], embeddings: Float[np.ndarray, "n M"], k: int
) -> Float[np.ndarray, "n P"]:
    """The kernel-weighted loss of each reference's k nearest others, at every point.

    Raises:
        R2T2Error: there are no k others.
    """
    n = len(losses)
    if n <= k:
        raise R2T2Error(f"{n} references have no {k} others each; give more references or a smaller k")
    found = select(NearestNeighbors(k + 1), ExactIndex.build(embeddings), embeddings, sample_keys(0, np.arange(n)))
    indices = np.asarray(found.indices)
    others = np.asarray(found.mask) & (indices != np.arange(n)[:, None])
    # Where several references ask the very same, a reference may not be among its own k + 1 nearest: the last one goes.
    others[:, -1] &= (indices == np.arange(n)[:, None]).any(axis=1)
    weights = np.asarray(kernel_weights(Gaussian(), found.distances, found.dots, jnp.asarray(others)))
    weights = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
    return np.stack([row @ losses[places] for row, places in zip(weights, indices, strict=True)])


def make_atlas(
    model: RoutedLoss,
    params: Params,
    bank: ReferenceBank,
    folder: Path,
    plan: AtlasPlan,
    max_hours: float | None = None,
) -> Atlas:
    """Make the atlas of a bank and save it as `folder`; the work is kept beside it until it is done.

    Args:
        model, params: those of the bank.
        bank: references answered correctly and wrongly, with ids in their records and their features at hand.
        folder: where the atlas goes, `atlas/` in a bank's directory.
        plan: how it is made.
        max_hours: how long to go on from here.

    Raises:
        R2T2Error: the bank is too small, a loss is NaN, or the folder cannot be written.
        Stopped: a signal, or the end of the hours, asked for it.
    """
    chosen_on = np.unique(np.linspace(0, len(bank) - 1, min(plan.choosing, len(bank))).astype(int))
    candidates = candidate_points(model.spec, plan.drawn, plan.seed)
    ids = [str(record["id"]) for record in bank.records]
    parts = [Part(CHOOSING, len(chosen_on), plan.batch, CHOOSING), Part(TABULATING, len(bank), plan.batch, TABULATING)]
    depends = {"model": bank.model_fingerprint, "embedder": bank.embedder_fingerprint, "versions": versions()}

    def losses(rows: Int[np.ndarray, "n"], points: Float[np.ndarray, "P L E"]) -> Float[np.ndarray, "n P"]:
        return np.asarray(losses_at(params, *_filled(bank, rows, plan.batch), points, model=model))[: len(rows)]

    def choose(batch: Batch) -> Rows:
        rows = chosen_on[batch.start : batch.stop]
        found = losses(rows, candidates)
        quantize(found, [ids[i] for i in rows])  # names what is NaN
        return [{"losses": row} for row in found]

    work = folder.with_name(f"{folder.name}-in-progress")
    with Run.open(work, "bank atlas", asdict(plan), Plan(parts), depends, max_hours) as run:
        run.compute(choose, [CHOOSING], title="choose points")
        own = stack(run.table(CHOOSING)["losses"])
        seen = leave_one_out(own, np.asarray(bank.embeddings[chosen_on]), plan.k)
        points = candidates[choose_points(own, seen, plan.points)]

        def tabulate(batch: Batch) -> Rows:
            rows = np.arange(batch.start, batch.stop)
            found = quantize(losses(rows, points), [ids[i] for i in rows])
            arrays = _filled(bank, rows, plan.batch)
            routing = bank.routing[_fill(rows, plan.batch)]
            slopes = np.asarray(slopes_at(params, *arrays, routing, model=model), np.float16)[: len(rows)]
            return [{"losses": row, "slopes": slope} for row, slope in zip(found, slopes, strict=True)]

        run.compute(tabulate, [TABULATING], title="loss atlas")
        table = run.table(TABULATING)
        atlas = Atlas(
            points=points,
            losses=stack(table["losses"]),
            slopes=stack(table["slopes"]),
            model_fingerprint=bank.model_fingerprint,
            experts=model.spec.experts,
            ids=tuple(ids),
        )
        save_atlas(atlas, folder, asdict(plan))
        run.finish({"points": len(points), "references": len(ids)})
    remove(work)
    return atlas


def _fill(rows: Int[np.ndarray, "n"], size: int) -> Int[np.ndarray, "size"]:
    """The last row again, so that every batch has one shape."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows))])


def _filled(bank: ReferenceBank, rows: Int[np.ndarray, "n"], size: int) -> tuple[Any, Any]:
    return bank.samples(_fill(rows, size))
