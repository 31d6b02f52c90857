"""Diagnoses of models: a constructed model for every verdict of `diagnose`, and a port judged by its answers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.analysis.diagnose import diagnose, port_evidence
from r2t2_jax.analysis.diagnosis import ROWS, Diagnosis, diagnose_evidence
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.method.presets import Preset
from r2t2_jax.metrics import get_metric
from r2t2_jax.reporting.diagnosis import diagnosis_text
from tests.toy_port import make_samples, toy

EXPERTS, REFERENCES, SAMPLES = 3, 90, 60
PRESET = Preset.from_mapping(
    {
        "neighborhood.k": 5,
        "descent.steps": 15,
        "space.kind": "simplex",
        "descent.optimizer": "adam",
        "descent.learning_rate": 0.3,
        "descent.final_learning_rate": 0.1,
    }
)


def answer_loss(params, features, weights, answer):
    """Squared error of a mixture of experts whose outputs are the features [E]; weights [1, E]."""
    return jnp.square(params * weights[0] @ features - answer)


def examine(verdict: str) -> Diagnosis:
    """Diagnose a model that is constructed for a verdict: by the correct expert, the neighbors and the router."""
    rng = np.random.default_rng(0)
    n = REFERENCES + SAMPLES
    topic = rng.integers(EXPERTS, size=n)
    outputs = rng.normal(size=(n, EXPERTS)).astype(np.float32)
    even, right = np.full((n, EXPERTS), 1 / EXPERTS, np.float32), np.eye(EXPERTS, dtype=np.float32)[topic]
    answers, routing, similar = outputs[np.arange(n), topic], even, topic
    if verdict == "router_fine":
        routing = right
    if verdict == "not_recoverable":  # similar questions need different experts
        similar = rng.integers(EXPERTS, size=n)
    if verdict == "uniform":  # the mean of all experts is right, and the router selects one
        answers, routing = outputs.mean(axis=1), right
    if verdict == "no_gap":  # all experts have the same output
        outputs = np.repeat(outputs[:, :1], EXPERTS, axis=1)
        answers = outputs[:, 0] + 1
    embeddings = np.eye(EXPERTS, dtype=np.float32)[similar]
    first, last = np.s_[:REFERENCES], np.s_[REFERENCES:]
    routing = routing[:, None]  # [n, L = 1, E]
    bank = ReferenceBank(outputs[first], answers[first], routing[first], embeddings[first])
    arrays = (outputs[last], routing[last], embeddings[last], answers[last])
    return diagnose(answer_loss, jnp.float32(1), bank, *arrays, preset=PRESET)


@pytest.mark.parametrize("verdict", ["helps", "uniform", "not_recoverable", "router_fine", "no_gap"])
def test_each_verdict_is_given_for_a_model_constructed_for_it(verdict: str) -> None:
    diagnosis = examine(verdict)
    assert diagnosis.verdict == verdict, diagnosis_text(diagnosis)
    assert diagnosis.kind == "loss" and diagnosis.n == SAMPLES
    # Where equal weights are right for all samples, random references predict as well as near ones.
    assert (diagnosis.finding("predicts").reply == "yes") == (verdict in ("helps", "router_fine"))
    assert max(map(len, diagnosis_text(diagnosis).splitlines())) <= 80


def test_the_ceiling_is_at_least_as_good_as_every_row() -> None:
    rows = examine("helps").rows
    assert rows["ceiling"].gain >= max(rows[name].gain for name in ("base", "oracle", "uniform")) - 1e-6


def test_few_samples_are_refused() -> None:
    outputs = np.ones((8, EXPERTS), np.float32)
    routing, embeddings = np.full((8, 1, EXPERTS), 1 / EXPERTS, np.float32), np.eye(8, 4, dtype=np.float32)
    embeddings[4:] = embeddings[:4]
    bank = ReferenceBank(outputs, outputs[:, 0], routing, embeddings)
    with pytest.raises(R2T2Error, match="8 samples are too few for a diagnosis"):
        diagnose(answer_loss, jnp.float32(1), bank, outputs, routing, embeddings, outputs[:, 0], preset=PRESET)


METRIC = get_metric("exact_match")
PORT = dataclasses.replace(toy(), presets={})


@pytest.mark.parametrize(("hinted", "verdict"), [(0.1, "helps"), (1.0, "router_fine")])
def test_a_port_is_judged_by_its_answers(hinted: float, verdict: str) -> None:
    bank = collect_bank(PORT, make_samples(90, seed=1, hinted=0.6), METRIC)
    questions = encode_questions(PORT, make_samples(60, seed=2, hinted=hinted))
    evidence = port_evidence(PORT, bank, questions, PRESET, METRIC)
    assert list(evidence.values) == list(ROWS)
    assert all(right.dtype == bool for right in evidence.values.values())
    assert evidence.values["ceiling"].all()  # the right expert by itself is among the candidates
    diagnosis = diagnose_evidence(evidence)
    assert diagnosis.verdict == verdict, diagnosis_text(diagnosis)
    assert diagnosis.finding("predicts").reply == "yes"
