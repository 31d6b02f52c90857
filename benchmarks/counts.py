"""Counts of every strategy's program at fixed shapes: `python -m benchmarks.counts` writes them.

The model is the toy of `tests/toy.py`, with a batch of 5 samples and small presets, so that tracing all strategies
takes seconds. Nothing is compiled or run, and the numbers do not depend on the machine: a change in them is a change
in the programs. `tests/costs/test_counts.py` compares them with `benchmarks/results/counts.json`; after a change on
purpose, write the file again and state the reason in the commit.

    programs     by strategy, the first one that runs the same program; strategies that differ by numbers share one
    flops        of products, convolutions and triangular solutions, for the batch
    operations   dispatched before any fusion, with loop bodies once per iteration
    bytes        of the arguments and results of these operations
    evaluations  forward passes per sample that depend on the routing
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2t2_jax.costs.jaxpr import count_flops, count_operations
from r2t2_jax.method.forward import generate_tokens
from r2t2_jax.method.rerouting import canonicalize, split_shared, trace_batch
from r2t2_jax.methods import STRATEGIES, strategy
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing
from tests import toy

RESULTS = Path(__file__).parent / "results" / "counts.json"
SAMPLES = 5


def programs() -> dict[str, str]:
    """For every strategy, the first one that runs the same program on the same bank; traces nothing."""
    _, embeddings = toy.toy_queries(SAMPLES)
    banks = {False: toy.toy_bank(), True: toy.with_atlas(toy.toy_bank())}
    first: dict[Any, str] = {}
    named = {}
    for name in STRATEGIES:
        chosen = strategy(name, toy.SMALL)
        references = toy.references_for(chosen, banks[chosen.atlas is not None], embeddings)
        arguments = (canonicalize(chosen), *split_shared(chosen, references))
        key = jax.tree.structure(arguments), tuple(np.shape(leaf) for leaf in jax.tree.leaves(arguments))
        named[name] = first.setdefault(key, name)
    return named


def strategy_counts(names: Iterable[str] = STRATEGIES) -> dict[str, dict[str, int]]:
    """The counts of strategies, by name."""
    queries, embeddings = toy.toy_queries(SAMPLES)
    banks = {False: toy.toy_bank(), True: toy.with_atlas(toy.toy_bank())}
    params, keys = toy.toy_params(), sample_keys(0, np.arange(SAMPLES))
    counts = {}
    for name in names:
        chosen = strategy(name, toy.SMALL)
        references = toy.references_for(chosen, banks[chosen.atlas is not None], embeddings)
        traced = trace_batch(chosen, toy.MODEL, params, queries, references, keys)
        counts[name] = {**counts_of(traced.jaxpr), "evaluations": traced.out_info.evaluations}
    return counts


def counts_of(jaxpr: Any) -> dict[str, int]:
    """FLOPs, operations and bytes of a traced program."""
    operations, moved = count_operations(jaxpr)
    return {"flops": count_flops(jaxpr), "operations": operations, "bytes": moved}


def generation_counts() -> dict[str, dict[str, int]]:
    """The counts of the final answer, by the router's own weights and by replaced ones."""
    queries, _ = toy.toy_queries(SAMPLES)
    routings = {"own": None, "replaced": Routing(queries.routing)}
    return {
        name: counts_of(
            generate_tokens.trace(
                toy.toy_params(), queries.features, routing, model=toy.MODEL, max_new_tokens=toy.A
            ).jaxpr
        )
        for name, routing in routings.items()
    }


def all_counts() -> dict[str, Any]:
    """The content of the file."""
    return {
        "command": "python -m benchmarks.counts",
        "jax": version("jax"),
        "samples": SAMPLES,
        "programs": programs(),
        "strategies": strategy_counts(),
        "generation": generation_counts(),
    }


if __name__ == "__main__":
    RESULTS.write_text(json.dumps(all_counts(), indent=1) + "\n", encoding="utf-8")
