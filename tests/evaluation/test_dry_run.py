"""The predicted cost of an evaluation, and the batch size chosen from it."""

import dataclasses

import jax
import numpy as np
import pytest

from r2t2_jax.bank.manifest import Source
from r2t2_jax.costs import prediction
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import job as jobs
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.devices import device_groups
from r2t2_jax.evaluation.dry_run import predict_evaluation
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.runtime.batching import AdaptiveBatchSize
from tests.toy_port import make_samples, toy

PRESET = Preset.from_mapping(toy().presets["toy"])


@pytest.fixture(scope="module")
def evaluator():
    exact = get_metric("exact_match")
    bank = collect_bank(toy(), make_samples(40, seed=3, hinted=0.4), exact, keep_wrong=True)
    strategies = {name: method_of(name, PRESET) for name in ("base", "kernel_regression", "ngd")}
    return Evaluator.create(toy(), bank, strategies, exact)


def question():
    return make_samples(1, seed=1, hinted=0.4)[0]


def test_evaluations_are_those_of_the_strategies_and_flops_those_of_the_programs(evaluator):
    costs = predict_evaluation(evaluator, question(), 4).costs
    steps, k = PRESET.descent.steps, PRESET.neighborhood.k
    assert {name: cost.evaluations for name, cost in costs.items()} == {
        "base": 1,
        "kernel_regression": 2,
        "ngd": 1 + 2 * steps * k + 1,
    }
    port, image = toy(), 15  # one forward pass multiplies E = 3 weights into V = 5 votes: 2 x 15 FLOPs
    forward = count_flops(jax.make_jaxpr(port.model.answer_loss)(port.params, *_arguments(port, question())))
    assert forward == 2 * image
    assert costs["ngd"].flops - costs["base"].flops >= steps * k * 2 * forward


def _arguments(port, sample):
    inputs = jax.tree.map(lambda leaf: leaf[0], port.processor.prepare(port.params, [sample]))
    return port.model.encode(port.params, inputs), None, np.asarray(0)


def test_memory_grows_with_the_batch_by_the_size_of_a_sample(evaluator):
    two, eight = (predict_evaluation(evaluator, question(), size).memory for size in (2, 8))
    assert two.parameters == 8  # two numbers in float32
    assert eight.per_sample == two.per_sample
    votes, gate, answer, routing = 3 * 5 * 4, 3 * 4, 8, 2 * 3 * 4
    assert two.per_sample > (PRESET.neighborhood.k + 1) * (votes + gate) + PRESET.neighborhood.k * (
        answer / 2 + routing
    )
    assert eight.of_batch(8) - eight.of_batch(4) == 4 * eight.per_sample


def test_a_device_with_its_own_memory_takes_as_many_samples_as_fit(evaluator, monkeypatch):
    samples = make_samples(8, seed=1, hinted=0.4)
    benchmarks = {"set": QuestionSet(Source("set"), samples, "exact_match")}
    strategies, bank = evaluator.strategies, evaluator.index.bank
    job = jobs.Job([toy()], device_groups(""), bank, benchmarks, strategies, PRESET, 0, batch=8, fitted=True)
    memory, lines = job.dry_run().memory, []
    monkeypatch.setattr(jobs, "device_memory", lambda: int(memory.of_batch(2) / 0.9) + 1)
    assert job._device_batch(lines.append) == (2, 1)
    (line,) = lines
    assert line.startswith("2 questions at a time, vmap size 1, take ")
    for changed in (dataclasses.replace(job, fitted=False), job):
        assert changed._device_batch(lines.append) == (2 if changed.fitted else 8, 1)
    monkeypatch.setattr(jobs, "device_memory", lambda: 100 * memory.of_batch(8))
    for vmap_size, expected in ((None, 8), (1, 1), (2, 2)):  # by default the whole batch, if it fits
        assert dataclasses.replace(job, vmap_size=vmap_size)._device_batch(lines.append) == (8, expected)
    monkeypatch.setattr(jobs, "device_memory", lambda: None)  # as on a CPU
    assert job._device_batch(lines.append) == (8, 1)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    batch_size = AdaptiveBatchSize(4, lambda line: pytest.fail(line))

    def fails(size):
        raise R2T2Error("no such thing")

    with pytest.raises(R2T2Error, match="no such thing"):
        batch_size.fit(fails)


def test_the_largest_vmap_size_is_the_largest_whose_compiled_program_fits(evaluator):
    dry_run = predict_evaluation(evaluator, question(), 8)
    one, four = dry_run.memory, dry_run.measure(4)
    assert (one.vmap_size, four.vmap_size) == (1, 4)
    assert four.activations > one.activations  # four samples' losses and gradients are in memory at a time
    assert dry_run.widest(10 * four.of_batch(8), 8).vmap_size == 8
    least = int(four.of_batch(8) / 0.9) + 1  # the estimate of eight may be below what four take: both are compiled
    assert dry_run.widest(least, 8).of_batch(8) <= 0.9 * least
    assert dry_run.widest(one.of_batch(8), 8) == one


@pytest.mark.parametrize("largest", ["_reroute_samples", "encode_batch", "generate_tokens"])
def test_the_program_with_the_largest_activations_counts(evaluator, monkeypatch, largest):
    monkeypatch.setattr(
        prediction, "_temporary_bytes", lambda lowered: 7_000 if largest in lowered.as_text() else 5_000
    )
    assert predict_evaluation(evaluator, question(), 4).memory.activations == 7_000
