"""Re-routing of batches: one jit, one compile per shape (docs/design.md, section 4).

Samples go through `lax.map`, neighbors through `vmap` (in the objective), steps through `scan` (in the search). A
sample's result does not depend on its batch (`benchmarks/lax_map_or_vmap.py` measures `lax.map` against `vmap`). On an
accelerator `vmap_size` samples are computed together.

Evaluations are r-dependent forward passes per sample; a value with its gradient counts two, the router's own pass and
the final answer one each. With S steps, K neighbors, and n points:

    base, uniform, task_routing   1               kernel_regression_alpha   1 + n K + 1
    router_mean                   1 + 1           ngd and its two controls  1 + 2 S K + 1
    kernel_regression             1 + 1           oracle                    1 + 2 S + 1
    mode_finding                  1 + 1           best_of_n                 1 + 2 n + 1
    the atlas's, gate_finetuned   1 + 1           best_fixed                1

`best_fixed` also takes the router's pass where the atlas's points are mixtures with its weights. In the `shift` space
the gate gives the weights of a path, one more pass for each of its P points.

A search with `path_is_free` returns one shift, whose weights the pass of the final answer gives. A restriction to
fragile samples adds one pass for the untouched model's answer, and two for the entropy of answers.

Axis letters: B test samples, K neighbors, S steps, L routed layers, E experts, P points of a path.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Key

from r2t2_jax.contract import Params, Query, References, Rerouted, RoutedLoss, RoutedModel
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.fragile import FragileOnly
from r2t2_jax.method.kernels import Linear
from r2t2_jax.method.needs import Need, check_needs
from r2t2_jax.method.objectives import Oracle, PermutedOracle
from r2t2_jax.method.search.problem import RoutingProblem
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.runtime.batching import map_in_chunks, map_parts, pad_to_multiple

DATA_AXIS = "data"


def reroute_sample(
    strategy: Strategy,
    model: RoutedLoss,
    params: Params,
    query: Query,
    references: References | None,
    key: Key[Array, ""],
) -> Rerouted:
    """The routing weights of one test sample. Pure and traceable."""
    if strategy.search is None:
        own = query.routing
        return Rerouted(None, own, own[None], jnp.zeros(0), jnp.asarray(False), {}, evaluations=1)
    support = strategy.space.core_support(model.spec, query.routing, query.support)
    query = dataclasses.replace(query, support=support)
    problem, before = make_problem(strategy, model, params, query, references)
    result = strategy.search(problem, key)

    routing = jax.vmap(problem.routing)(result.path)  # values [P, L, E]
    uses_router = strategy.search.uses_router or problem.mixed_points
    evaluations = before + result.evaluations + uses_router + 1
    path = routing.values
    if strategy.space.kind == "shift":
        path = jax.lax.map(partial(cast(RoutedModel, model).route, params, query.features), routing)  # [P, L, E]
        evaluations += 0 if getattr(strategy.search, "path_is_free", False) else len(path)
    last = jax.tree.map(lambda leaf: leaf[-1], routing)  # [L, E]
    rerouted = Rerouted(
        last, path[-1], path, result.losses, jnp.asarray(result.used_fallback), result.info, evaluations
    )
    if strategy.kernel is None:
        return rerouted
    assert references is not None
    assert references.weights is not None
    rerouted = _keep_router(rerouted, problem, rerouted.used_fallback | (references.weights.sum() == 0))
    if strategy.fragile is None:
        return rerouted
    return _only_fragile(strategy.fragile, rerouted, problem, model, params)


def _only_fragile(
    fragile: FragileOnly, rerouted: Rerouted, problem: RoutingProblem, model: RoutedLoss, params: Params
) -> Rerouted:
    """The router's own weights for a sample that is not fragile; `info["untouched"]` says for which."""
    untouched = ~fragile.is_fragile(model, params, problem.query)
    kept = _keep_router(rerouted, problem, untouched)
    return dataclasses.replace(
        kept,
        used_fallback=rerouted.used_fallback,
        info=kept.info | {"untouched": untouched},
        evaluations=kept.evaluations + fragile.evaluations,
    )


def make_problem(
    strategy: Strategy, model: RoutedLoss, params: Params, query: Query, references: References | None
) -> tuple[RoutingProblem, int]:
    """The problem of a strategy's search, and the evaluations before the search begins."""
    objective, passes_support = strategy.objective, getattr(model, "reads_support", False)
    if objective is None:
        mixed = strategy.atlas is not None and strategy.atlas.mixed
        problem = RoutingProblem(
            model.spec, strategy.space, query, references, passes_support=passes_support, mixed_points=mixed
        )
        return problem, 0
    loss = objective.prepare(model, params, query, references)
    forwards = objective.forwards(references)
    if strategy.space.kind == "shift" and objective.reads_weights:
        forwards += 1  # the gate's pass that gives the shifted weights
    problem = RoutingProblem(model.spec, strategy.space, query, references, loss, forwards, passes_support)
    return problem, objective.prepare_forwards


def _keep_router(rerouted: Rerouted, problem: RoutingProblem, used_fallback: Bool[Array, ""]) -> Rerouted:
    """The router's own weights where no reference has any weight: a shift of zero, or r0 itself.

    A model that computes the supported experts only gets r0 on its support.
    """
    assert rerouted.routing is not None
    router = problem.query.routing
    if rerouted.routing.mode == "shift":
        values = jnp.zeros_like(router)
    else:
        values = problem.routing(problem.start()).values if problem.passes_support else router
    return dataclasses.replace(
        rerouted,
        routing=dataclasses.replace(rerouted.routing, values=jnp.where(used_fallback, values, rerouted.routing.values)),
        weights=jnp.where(used_fallback, router, rerouted.weights),
        path=jnp.where(used_fallback, router[None], rerouted.path),
        used_fallback=used_fallback,
    )


Samples = tuple[Query, References | None, Key[Array, "B"]]
Shared = dict[str, Array | None]  # fields of References that all samples share


STATIC = ("model", "mesh", "vmap_size")


@partial(jax.jit, static_argnames=STATIC)
def _reroute_samples(
    strategy: Strategy,
    params: Params,
    shared: Shared,
    samples: Samples,
    *,
    model: RoutedLoss,
    mesh: Mesh | None,
    vmap_size: int,
) -> Rerouted:
    """Every leaf of `samples` has a leading axis B; `shared` are the arrays of the bank that all samples share."""

    def each(strategy: Strategy, params: Params, shared: Shared, samples: Samples) -> Rerouted:
        def reroute(sample: Samples) -> Rerouted:
            query, neighborhood, key = sample
            if neighborhood is not None:
                neighborhood = dataclasses.replace(neighborhood, **shared)
            return reroute_sample(strategy, model, params, query, neighborhood, key)

        return map_in_chunks(reroute, samples, vmap_size)

    if mesh is not None:
        whole, split = PartitionSpec(), PartitionSpec(DATA_AXIS)
        # Each device maps over its own samples. Replication is not tracked (check_vma): loops inside a user's
        # model would have to declare what varies over the mesh.
        each = jax.shard_map(each, mesh=mesh, in_specs=(whole, whole, whole, split), out_specs=split, check_vma=False)
    return each(strategy, params, shared, samples)


# By default XLA's vectors fill half of an AVX-512 register; a processor with smaller registers ignores the number.
_reroute_on_cpu = jax.jit(
    cast(Any, _reroute_samples).__wrapped__,
    static_argnames=STATIC,
    compiler_options={"xla_cpu_prefer_vector_width": 512},
)


def _program(*arguments: Any) -> Any:
    """The compiled function for these arguments; one with options cannot be called by a function that is traced."""
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
    return _reroute_samples if traced or jax.default_backend() != "cpu" else _reroute_on_cpu


def canonicalize(strategy: Strategy) -> Strategy:
    """The strategy as it is compiled: without its name, and without the retrieval that is done outside.

    Permuted labels are labels like others, which `with_labels` gives the queries.
    """
    weighted = None if strategy.kernel is None else Linear()  # stands for any kernel
    objective = Oracle() if isinstance(strategy.objective, PermutedOracle) else strategy.objective
    return dataclasses.replace(
        strategy,
        name="",
        selector=None,
        kernel=weighted,
        objective=objective,
        retrieval_key="question",
        memory_strategy=None,
    )


def with_labels(strategy: Strategy, queries: Query) -> Query:
    """The queries with the labels that the strategy reads: their own, or permuted ones in place of these."""
    if not isinstance(strategy.objective, PermutedOracle):
        return queries
    return dataclasses.replace(queries, answer=queries.permuted_answer)


def reroute_batch(
    strategy: Strategy,
    model: RoutedLoss,
    params: Params,
    queries: Query,
    references: References | None,
    keys: Key[Array, "B"],
    mesh: Mesh | None = None,
    vmap_size: int = 1,
    threads: int = 1,
) -> Rerouted:
    """The routing weights of a batch of test samples.

    Args:
        strategy: its numbers are traced.
        model: hashable; compiled programs are kept by model, structure and shapes.
        params: every array of the model.
        queries: every leaf with a leading axis B.
        references: from `ReferenceBank.references`, or `None` for strategies that read none.
        keys: one per sample, from `sample_keys`.
        mesh: devices among which the batch is split, over the axis `data`; no device waits for another.
        vmap_size: number of samples that a device computes together. A larger number uses an accelerator better, takes
            memory in proportion, and changes results by rounding.
        threads: number of parts of the batch computed at a time without a mesh: on a CPU `threads_at_a_time()`, where
            the calling thread is the only one.

    Returns:
        `Rerouted` with a leading axis B on every leaf.

    Raises:
        R2T2Error: the strategy needs what the model, the queries or the references do not offer.
    """
    check_needs(strategy.name, strategy.needs, model, queries, references)
    strategy, queries = canonicalize(strategy), with_labels(strategy, queries)
    neighborhoods, shared = split_shared(strategy, references)
    samples = (queries, neighborhoods, keys)
    program = _program(strategy, params, shared, samples)
    if mesh is None:
        reroute = partial(program, strategy, params, shared, model=model, mesh=None, vmap_size=vmap_size)
        return map_parts(reroute, samples, threads)

    if DATA_AXIS not in mesh.shape:
        raise R2T2Error(f"the mesh has axes {mesh.axis_names}; name the one over which samples are split {DATA_AXIS!r}")
    # Compiler-placed axes, also for meshes with explicit ones (make_mesh): results are indexed like any array.
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
    samples = pad_to_multiple(samples, mesh.shape[DATA_AXIS])  # the padding is dropped from the results
    params, shared = jax.device_put((params, shared), NamedSharding(mesh, PartitionSpec()))
    samples = jax.device_put(samples, NamedSharding(mesh, PartitionSpec(DATA_AXIS)))
    rerouted = program(strategy, params, shared, samples, model=model, mesh=mesh, vmap_size=vmap_size)
    return rerouted if len(rerouted.weights) == len(keys) else jax.tree.map(lambda leaf: leaf[: len(keys)], rerouted)


def trace_batch(
    strategy: Strategy,
    model: RoutedLoss,
    params: Params,
    queries: Query,
    references: References | None,
    keys: Key[Array, "B"],
    vmap_size: int = 1,
) -> jax.stages.Traced:
    """The program that `reroute_batch` runs for such a batch on one device, before it is lowered and compiled.

    Raises:
        R2T2Error: as `reroute_batch`.
    """
    check_needs(strategy.name, strategy.needs, model, queries, references)
    strategy, queries = canonicalize(strategy), with_labels(strategy, queries)
    neighborhoods, shared = split_shared(strategy, references)
    samples = (queries, neighborhoods, keys)
    return _reroute_samples.trace(strategy, params, shared, samples, model=model, mesh=None, vmap_size=vmap_size)


def split_shared(strategy: Strategy, references: References | None) -> tuple[References | None, Shared]:
    """The arrays of each sample, and the arrays that all samples share, of which only those that the strategy reads.

    A program is compiled for each size of its arguments, and banks differ in size.
    """
    if references is None:
        return None, {"bank_routing": None, "points": None}
    read = {"bank_routing": Need.BANK_ROUTING in strategy.needs, "points": True}
    shared = {name: getattr(references, name) if read[name] else None for name in read}
    return dataclasses.replace(references, bank_routing=None, points=None), shared
