"""Cost and memory of re-routing a batch, predicted from shapes: nothing is allocated and nothing is run.

`r2t2 cost`, `r2t2 fit`, `r2t2 eval --dry-run`, `r2t2 reproduce --dry-run` and the automatic batch size use it.
Cost is counted on the traced program, memory is read off the compiled one (on request off the traced one):

    parameters  +  B x (query, key, result)  +  B x K x (features, answer, routing)  +  activations

Axis letters: B samples, K neighbors, N references, G atlas points, L routed layers, E experts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jaxtyping import Array, Key

from r2t2_jax.contract import ModelShapes, Params, Query, References, Rerouted, RoutedLoss, condition
from r2t2_jax.costs.jaxpr import count_flops, peak_bytes
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.rerouting import trace_batch
from r2t2_jax.method.search.mode_finding import ModeFinding
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.retrieval.neighbors import SMALLEST_BALL, sample_keys
from r2t2_jax.runtime.pytrees import device_bytes, shards, tree_bytes

REFERENCES = 5000  # N, of an abstract batch whose strategy reads the whole bank
SHARED = ("bank_routing", "points")  # fields of `References` without the axis B


class BatchInputs(NamedTuple):
    """The inputs of one program: arrays or `jax.ShapeDtypeStruct`s with a leading axis B."""

    queries: Query
    references: References | None
    keys: Key[Array, "B"]


@dataclass(frozen=True)
class SampleCost:
    """Cost of one sample.

    Args:
        evaluations: forward passes that depend on the routing weights.
        flops: 2 x multiply-add.
        encodings: references whose features are computed for the sample, if none of them is cached.
    """

    evaluations: int
    flops: int
    encodings: int = 0


@dataclass(frozen=True)
class MemoryUse:
    """Bytes that one device holds while it re-routes a batch.

    Args:
        samples: B.
        neighbors: K.
        parameters: of the model.
        queries: features, keys and results of all samples.
        references: features, answers and routing weights of all neighbors.
        activations: temporary arrays of the compiled program, or of the traced one (`reads_shapes`).
        vmap_size: samples computed together; activations grow with it.
        compiled: false if `activations` is no compiled program's: interpolated, or counted on the traced program.
    """

    samples: int
    neighbors: int
    parameters: int
    queries: int
    references: int
    activations: int
    vmap_size: int = 1
    compiled: bool = True

    @property
    def total(self) -> int:
        return self.parameters + self.queries + self.references + self.activations

    @property
    def per_sample(self) -> int:
        """Bytes of one sample and its neighbors, activations excluded."""
        return -(-(self.queries + self.references) // self.samples)

    def of_batch(self, size: int) -> int:
        """The total for another batch size: activations depend on `vmap_size`, not on the batch size."""
        return self.parameters + self.activations + size * self.per_sample


@dataclass(frozen=True, eq=False)
class CostPrediction:
    """Cost and memory of re-routing one batch by one strategy; both are computed on first use.

    Args:
        strategy: to predict.
        model: static argument of the program.
        params: arrays or shapes.
        batch: arrays or shapes.
        vmap_size: samples computed together.
        other_programs: traced programs that run on the same batch; the largest of all activations counts.
        compiled: read activations off the compiled program. Otherwise they are counted on the traced one, which takes
            no compilation and gives an upper bound.

    Raises:
        R2T2Error: the strategy needs what model, queries or references do not offer (on use of `cost` or `memory`), or
            the compiler reports no memory (on use of `memory`).
    """

    strategy: Strategy
    model: RoutedLoss
    params: Params
    batch: BatchInputs
    vmap_size: int = 1
    other_programs: Sequence[jax.stages.Traced] = ()
    compiled: bool = True

    @cached_property
    def _program(self) -> jax.stages.Traced:
        return trace_batch(self.strategy, self.model, self.params, *self.batch, self.vmap_size)

    @cached_property
    def cost(self) -> SampleCost:
        """Cost of re-routing one sample; encoding and answering are not part of it."""
        together = min(self.vmap_size, len(self.batch.keys))
        samples = -(-len(self.batch.keys) // together) * together  # the program pads the last ones
        return SampleCost(self._program.out_info.evaluations, count_flops(self._program.jaxpr) // samples)

    @property
    def rerouted(self) -> Rerouted:
        """The result of the program, as shapes."""
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), self._program.out_info)

    @cached_property
    def memory(self) -> MemoryUse:
        """Memory of the whole batch."""
        queries, references, keys = self.batch
        programs, compiled = (self._program, *self.other_programs), self.compiled and not reads_shapes(self.params)
        if compiled:
            activations = max(_temporary_bytes(program.lower()) for program in programs)
        else:
            activations = max(_traced_bytes(program, self.params) for program in programs)
        per_sample = references and dataclasses.replace(references, **dict.fromkeys(SHARED))
        neighbors = 0 if references is None or references.weights is None else references.weights.shape[1]
        parameters = device_bytes(self.params)
        own, near = tree_bytes((queries, keys, self.rerouted)), tree_bytes(per_sample)
        return MemoryUse(len(keys), neighbors, parameters, own, near, activations, self.vmap_size, self.compiled)


def abstract_batch(
    shapes: ModelShapes,
    strategy: Strategy,
    samples: int = 1,
    neighbors: int | None = None,
    points: int = 0,
    labels: bool = True,
) -> BatchInputs:
    """A batch as a strategy reads it, as shapes.

    Args:
        shapes: of the model.
        strategy: its `k` is the default number of neighbors, 16 for a ball without a cap; without a selector there are
            none.
        samples: B.
        neighbors: K.
        points: G, of the loss atlas; 0 for a bank without one.
        labels: whether the queries have the labels and weights that only bounds and baselines read.
    """
    spec = shapes.model.spec.shape
    routing, answer = floats(samples, *spec), stack_shapes(shapes.answer, samples)
    support: Any = jax.ShapeDtypeStruct((samples, *spec), bool)
    queries = Query(stack_shapes(shapes.features, samples), routing, support)
    if labels:
        others: dict[str, Any] = {"task_routing": routing, "finetuned_routing": routing, "permuted_answer": answer}
        queries = dataclasses.replace(queries, answer=answer, **others)
    if strategy.augmentations is not None and strategy.objective is not None:
        views = (strategy.objective.num_augmentations,) if strategy.augmentations == "views" else ()
        augmented = {strategy.augmentations: stack_shapes(shapes.features, samples, *views)}
        queries = dataclasses.replace(queries, **augmented)
    keys = jax.eval_shape(lambda: sample_keys(0, jnp.arange(samples)))
    bank = floats(REFERENCES, *spec) if isinstance(strategy.search, ModeFinding) else None
    if strategy.selector is None:
        return BatchInputs(queries, References(bank), keys)
    near = samples, (strategy.selector.k or SMALLEST_BALL) if neighbors is None else neighbors
    features, answers = None, None
    if strategy.reads_neighbor_features:
        conditioned = jax.eval_shape(partial(condition, shapes.model), shapes.params, shapes.features, shapes.answer)
        features, answers = stack_shapes((conditioned, shapes.answer), *near)
    references = References(bank, features, answers, floats(*near, *spec), floats(*near))
    if points:
        atlas = {"points": floats(points, *spec), "point_losses": floats(*near, points)}
        references = dataclasses.replace(references, **atlas, slopes=references.routing)
    return BatchInputs(queries, references, keys)


def floats(*shape: int) -> Any:
    """The shape of a float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def stack_shapes(tree: Any, *axes: int) -> Any:
    """The shapes of a tree with leading axes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), tree)


def reads_shapes(params: Params) -> bool:
    """Whether activations are read off traced programs, for accelerators that are not at hand.

    XLA for CPUs converts all half-precision weights to float32, and a program for a mesh is compiled on its devices
    only.
    """
    leaves = jax.tree.leaves(params)
    if any(isinstance(getattr(getattr(leaf, "sharding", None), "mesh", None), AbstractMesh) for leaf in leaves):
        return True
    half = any(jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize == 2 for leaf in leaves)
    return half and jax.default_backend() == "cpu"


def _traced_bytes(traced: jax.stages.Traced, params: Params) -> int:
    """`peak_bytes` of a program, with the slices of sharded parameters as a device holds them."""
    # Programs take parameters at different places: they are recognized by shape and type.
    parts = {(leaf.shape, leaf.dtype): part for part, leaf in zip(shards(params), jax.tree.leaves(params), strict=True)}
    arguments = [variable.aval for variable in traced.jaxpr.jaxpr.invars]
    return peak_bytes(traced.jaxpr, [parts.get((aval.shape, aval.dtype), 1.0) for aval in arguments])


def _temporary_bytes(lowered: jax.stages.Lowered) -> int:
    analysis = lowered.compile().memory_analysis()
    if analysis is None:
        raise R2T2Error(
            f"the compiler for {jax.default_backend()} reports no memory use; choose the batch size with --batch-size"
        )
    return analysis.temp_size_in_bytes
