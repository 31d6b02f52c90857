"""Measures the evidence for a diagnosis: of a port and its questions, or of any JAX model and arrays.

Axis letters: B test samples, M embedding size, L routed layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from r2t2_jax.analysis.diagnosis import ROWS, WORTHWHILE, Diagnosis, Evidence, check_enough, diagnose_evidence
from r2t2_jax.analysis.loss_landscape import ProbeBatch, losses_at, probe_losses
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.contract import Answer, Features, Params, Port, RoutedLoss
from r2t2_jax.evaluation.encode import BATCH, EncodedQuestions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.records import CORRECT
from r2t2_jax.functional.arrays import ArraySamples, Loss, check_dependence, check_labels
from r2t2_jax.functional.auto_preset import AUTO, choose_preset
from r2t2_jax.method.forward import generate_batch
from r2t2_jax.method.objectives import Oracle
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.strategies import Strategy
from r2t2_jax.methods import find_preset, preset_name, strategy
from r2t2_jax.metrics import Metric
from r2t2_jax.retrieval.neighbors import sample_keys
from r2t2_jax.routing import Routing, RoutingSpec
from r2t2_jax.runtime.batching import Rows, map_batches, take
from r2t2_jax.runtime.checks import check_seed
from r2t2_jax.runtime.progress import progress_bar

STRATEGY_ROWS = ROWS[:-1]  # the ceiling is computed from these and the candidate routings


def strategies_to_compare(preset: Preset) -> dict[str, Strategy]:
    """The rows of a diagnosis that are strategies, by name."""
    return {name: strategy(name, preset) for name in STRATEGY_ROWS}


def port_evidence(
    port: Port, bank: ReferenceBank, questions: EncodedQuestions, preset: Preset, metric: Metric, seed: int = 0
) -> Evidence:
    """The evidence on a port: which rows answer which questions correctly, and losses at candidate routings.

    Args:
        port: the model.
        bank: correctly answered references of the same model.
        questions: labeled questions that are not in the bank.
        preset: settings of every strategy.
        metric: scores an answer.
        seed: of all random numbers.

    Raises:
        R2T2Error: as `evaluate`, there are too few questions, or the loss does not depend on the routing weights.
    """
    check_enough(len(questions.samples))
    check_dependence(port.model, port.params, questions.queries)
    strategies = strategies_to_compare(preset)
    results = {result.name: result for result in evaluate(port, bank, questions, strategies, metric, seed)}
    values = {name: result.right for name, result in results.items()}
    keys = sample_keys(seed, np.arange(len(questions.samples)))
    batch = ProbeBatch(port.model, port.params, bank, questions.queries, questions.embeddings, keys, BATCH)
    probe = probe_losses(batch, strategies, jnp.asarray(results["oracle"].weights), untouched=True)

    def answer(rows: Rows) -> Array:
        features, weights = take((questions.queries.features, probe.best), rows)
        return generate_batch(port, features, Routing(jnp.asarray(weights)))

    with progress_bar(len(keys), f"{port.name}: answer with the best routing") as progress:
        tokens, _ = map_batches(answer, len(keys), BATCH, progress)
    predictions = port.processor.decode(tokens)
    scores = [metric(prediction, sample) for prediction, sample in zip(predictions, questions.samples, strict=True)]
    values["ceiling"] = np.where(probe.base_is_best, values["base"], np.array(scores) >= CORRECT)
    return Evidence(values, probe.near, probe.random, probe.router_rank)


def diagnose(
    model: RoutedLoss | Loss,
    params: Params,
    bank: ReferenceBank,
    features: Features,
    routing: Float[Array, "B L E"] | Float[np.ndarray, "B L E"],
    embeddings: Float[Array, "B M"] | Float[np.ndarray, "B M"],
    answers: Answer,
    *,
    preset: str | Preset | Mapping[str, Any] = AUTO,
    spec: RoutingSpec | None = None,
    support: Bool[Array, "B L E"] | Bool[np.ndarray, "B L E"] | None = None,
    seed: int = 0,
    worthwhile: float = WORTHWHILE,
    allow_leakage: bool = False,
) -> Diagnosis:
    """Diagnose whether re-routing helps any JAX model, without a port or files; losses are compared instead of answers.

    Args:
        model, params, bank, features, routing, embeddings, spec, support, seed, allow_leakage: as `r2t2_jax.reroute`
            takes them.
        answers: labels of the B samples, which must not be references in the bank.
        preset: settings of every strategy, as `reroute` takes them; `auto` chooses them for `ngd`. The diagnosis names
            the preset.
        worthwhile: the smallest relevant decrease in loss, as a share of the router's own mean loss.

    Returns:
        The diagnosis; `reporting.diagnosis.diagnosis_text` formats it.

    Raises:
        R2T2Error: an array does not fit, as in `reroute`, there are too few samples, or the loss does not depend on the
            routing weights.
    """
    check_labels(answers)
    check_seed(seed)
    check_enough(len(routing))
    samples = ArraySamples.create(
        model, params, bank, features, routing, embeddings, answers, spec, support, seed, allow_leakage
    )
    check_dependence(samples.model, params, samples.queries)
    choice = choose_preset("ngd", samples) if preset == AUTO else None
    strategies = strategies_to_compare(choice.preset if choice else find_preset(preset))
    weights = {"base": samples.queries.routing}
    for name, plan in strategies.items():
        if name != "base":
            weights[name] = samples.reroute(plan).weights
    batch = ProbeBatch(
        samples.model, params, bank.only_correct(), samples.queries, embeddings, samples.keys, len(samples)
    )
    probe = probe_losses(batch, strategies, weights["oracle"], untouched=False)
    candidates = jnp.stack([*weights.values(), jnp.asarray(probe.best)], axis=1)  # [B, rows, L, E]
    losses = np.asarray(losses_at(Oracle(), samples.model, params, samples.queries, None, candidates))
    values = {name: -losses[:, i] for i, name in enumerate((*weights, "ceiling"))}
    diagnosis = diagnose_evidence(Evidence(values, probe.near, probe.random, probe.router_rank), worthwhile)
    return replace(diagnosis, preset=choice.name if choice else preset_name(preset))
