"""Records the routing of a model while it answers questions, batch by batch, in a run that can be resumed.

Models that route token by token (`contract.RecordingModel`) give a record for every token. Others give one record per
sample: all experts of each routed layer, the largest weight first.

Axis letters: B samples, T tokens, L routed layers, E experts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r2t2_jax.contract import (
    TOKEN_KINDS,
    Inputs,
    Params,
    Port,
    RecordingModel,
    Sample,
    SteerableModel,
    TokenRoutes,
    support_of,
)
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.question_sets import QuestionSet, sample_names
from r2t2_jax.method.forward import encode_batch, generate_tokens
from r2t2_jax.routes.recording import FORMAT, RecordingFacts, SampleRoutes, routes_table
from r2t2_jax.routing import Routing
from r2t2_jax.runs.fingerprint import versions
from r2t2_jax.runs.plan import Part, Plan
from r2t2_jax.runs.run import Run
from r2t2_jax.runtime.batching import Rows, run_batch, take
from r2t2_jax.runtime.checks import check_finite
from r2t2_jax.steering.files import Steering
from r2t2_jax.steering.steer import effective_weights, sample_routing, steered_model
from r2t2_jax.steering.tables import SteeringTables, bind
from r2t2_jax.validation.port import check_foreign

COMMAND = "routes record"


def record(
    out: Path,
    port: Port,
    sets: Mapping[str, QuestionSet],
    tokens: str,
    logits: bool,
    batch: int,
    settings: Mapping[str, Any],
    max_hours: float | None = None,
    steering: Steering | None = None,
) -> RecordingFacts:
    """Record the routing of a model on question sets, or resume recording it.

    Args:
        out: folder of the recording.
        port: the model.
        sets: questions by name.
        tokens: one of `recording.SELECTIONS`; records of whole samples belong to all of them.
        logits: also record the gates' logits.
        batch: samples per batch.
        settings: the command's options, with which it can be resumed.
        max_hours: time limit from now.
        steering: rules under which the model routes and answers.

    Raises:
        R2T2Error: the folder holds something else, or the model cannot follow the steering, cannot prepare a sample, or
            has no gates whose logits could be recorded.
        RunInterrupted: a signal or `max_hours` stopped it; finished batches are saved.
    """
    if logits and not isinstance(port.model, RecordingModel):
        raise R2T2Error(f"{port.name} routes whole samples and returns no gate logits: leave out --logits")
    plan = Plan([Part(name, len(questions.samples), batch) for name, questions in sets.items()])
    ports = {name: questions.answering_port(port) for name, questions in sets.items()}
    depends: dict[str, Any] = {
        "versions": versions(),
        "models": {port.name: {"fingerprint": port.fingerprint}},
        "data": {name: questions.digest for name, questions in sets.items()},
        "max_new_tokens": {name: each.max_new_tokens for name, each in ports.items()},
    }
    if steering is not None:
        bind(steering, port)
        depends["steering"] = steering.digest
    with Run.open(out, COMMAND, settings, plan, depends, max_hours) as run:
        for missing in run.missing():
            samples = sets[missing.part].samples[missing.start : missing.stop]
            size = min(batch, len(sets[missing.part].samples))
            rows = record_samples(ports[missing.part], samples, missing.part, tokens, logits, size, steering)
            run.append(missing, routes_table(rows))
        facts = _facts(run, port, tokens, logits)
        run.finish(facts.summary())
    return facts


def record_samples(
    port: Port,
    samples: Sequence[Sample],
    source: str,
    tokens: str,
    logits: bool,
    batch: int,
    steering: Steering | None = None,
    routing: Routing | None = None,
) -> list[SampleRoutes]:
    """The routes of samples, and the model's answers, which are those of `generate`.

    Args:
        port: the model; its `max_new_tokens` limits the answers.
        samples: at most `batch`.
        source: name of their set.
        tokens: one of `recording.SELECTIONS`.
        logits: also the gates' logits.
        batch: number of samples to which they are padded.
        steering: rules under which the model routes and answers.
        routing: with a leading axis of the samples, in place of the router's own; without a steering.

    Raises:
        R2T2Error: a sample cannot be prepared, the model cannot follow the steering or the routing, or a weight is NaN.
    """
    check_foreign(port, samples)
    inputs = port.processor.prepare(port.params, samples)
    tables = None if steering is None else bind(steering, port)

    def compute(rows: Rows) -> Any:
        batch_inputs, model = take(inputs, rows), port.model
        if not isinstance(model, RecordingModel):
            return _record_whole(port, batch_inputs, tables, [samples[i] for i in rows.tolist()], take(routing, rows))
        static = {"max_new_tokens": port.max_new_tokens, "logits": logits}
        if tables is None and routing is None:
            return _record_tokens(port.params, batch_inputs, model=model, **static)
        if not isinstance(model, SteerableModel):  # `bind` checks it too
            raise R2T2Error(f"{port.name} records the routes of its own router only")
        if tables is None:
            return _record_rerouted(port.params, (batch_inputs, take(routing, rows)), model=model, **static)
        wide, steered = steered_model(model, tables)
        return _record_steered(port.params, batch_inputs, steered, model=wide, **static)

    answers, routes = run_batch(compute, 0, len(samples), batch)
    with np.errstate(over="ignore"):  # what a float16 cannot hold becomes infinite and is refused
        stored = np.asarray(routes.weights, np.float16)
    check_finite(f"{port.name}, {sample_names(samples)}: combine weights", stored)
    texts = port.processor.decode(answers)
    return [
        _selected(sample, source, text, jax.tree.map(lambda leaf, i=i: leaf[i], routes), tokens)
        for i, (sample, text) in enumerate(zip(samples, texts, strict=True))
    ]


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "logits"))
def _record_tokens(
    params: Params, inputs: Inputs, *, model: RecordingModel, max_new_tokens: int, logits: bool
) -> tuple[jax.Array, TokenRoutes]:
    return jax.lax.map(lambda sample: model.record_routes(params, sample, max_new_tokens, logits), inputs)


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "logits"))
def _record_steered(
    params: Params, inputs: Inputs, routing: Routing, *, model: SteerableModel, max_new_tokens: int, logits: bool
) -> tuple[jax.Array, TokenRoutes]:
    return jax.lax.map(lambda sample: model.record_routes(params, sample, max_new_tokens, logits, routing), inputs)


@partial(jax.jit, static_argnames=("model", "max_new_tokens", "logits"))
def _record_rerouted(
    params: Params, samples: tuple[Inputs, Routing], *, model: SteerableModel, max_new_tokens: int, logits: bool
) -> tuple[jax.Array, TokenRoutes]:
    def record(sample: tuple[Inputs, Routing]) -> tuple[jax.Array, TokenRoutes]:
        return model.record_routes(params, sample[0], max_new_tokens, logits, sample[1])

    return jax.lax.map(record, samples)


def _record_whole(
    port: Port, inputs: Inputs, tables: SteeringTables | None, samples: Sequence[Sample], routing: Routing | None
) -> tuple[np.ndarray, TokenRoutes]:
    """Answers, and for each sample one record of all experts of each routed layer."""
    features, router = encode_batch(port.params, inputs, model=port.model)
    if tables is not None:
        support = support_of(port.model, features, router)
        routing = sample_routing(port, tables, samples, router, support)
    effective = router if routing is None else effective_weights(port, features, routing)
    static = {"model": port.model, "max_new_tokens": port.max_new_tokens}
    answers = generate_tokens(port.params, features, routing, **static)
    weights = np.asarray(effective, np.float32)  # [B, L, E]
    order = np.argsort(-weights, axis=-1, kind="stable")
    ordered = np.take_along_axis(weights, order, axis=-1).astype(np.float16)
    tokens: Any = np.full((len(weights), 1), -1)
    kinds: Any = np.full_like(tokens, TOKEN_KINDS.index("sample"))
    leaves: tuple[Any, Any] = order[:, None], ordered[:, None]
    return np.asarray(answers), TokenRoutes(tokens, kinds, *leaves, logits=None)


def _selected(sample: Sample, source: str, text: str, routes: TokenRoutes, tokens: str) -> SampleRoutes:
    """The selected tokens of one sample's routes, without padding."""
    valid = np.flatnonzero(np.asarray(routes.kinds) >= 0)
    kinds = np.asarray(TOKEN_KINDS)[np.asarray(routes.kinds)[valid]]
    chosen = np.isin(kinds, {"answer": ["answer", "sample"]}.get(tokens, ["text", "image", "sample"]))
    if tokens == "all":
        chosen = np.ones(len(kinds), bool)
    positions = np.flatnonzero(chosen)
    positions = positions[-1:] if tokens == "last" else positions
    rows = valid[positions]

    def chosen_rows(leaf: Any) -> np.ndarray:
        return np.asarray(leaf)[rows]

    return SampleRoutes(
        sample.id, source, sample.category, text,
        tokens=chosen_rows(routes.tokens), positions=positions, kinds=kinds[positions].tolist(),
        experts=chosen_rows(routes.experts), weights=chosen_rows(routes.weights),
        logits=None if routes.logits is None else chosen_rows(routes.logits),
    )  # fmt: skip


def _facts(run: Run, port: Port, tokens: str, logits: bool) -> RecordingFacts:
    """The facts of a recording; they depend on the saved rows only."""
    kinds, samples, top_k = Counter[str](), 0, 0
    for _, table in run.tables():
        samples += len(table)
        top_k = table["experts"].type.value_type.value_type.list_size
        kinds.update(table["kinds"].combine_chunks().flatten().to_pylist())
    model = port.model
    layers = model.gated_layers if isinstance(model, RecordingModel) else model.spec.layer_names
    return RecordingFacts(
        FORMAT, layers, model.spec.experts, top_k, tokens, True, logits, samples,
        {kind: kinds[kind] for kind in TOKEN_KINDS if kinds[kind]},
    )  # fmt: skip
