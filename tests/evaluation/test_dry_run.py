"""What an evaluation is said to cost, and what is made of it."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from r2t2_jax.bank.manifest import Source
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import dry_run as forecasting
from r2t2_jax.evaluation import job as jobs
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.devices import device_groups
from r2t2_jax.evaluation.dry_run import Forecast, Memory, forecast
from r2t2_jax.evaluation.evaluator import Evaluator
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.method.presets import Preset
from r2t2_jax.methods import method_of
from r2t2_jax.metrics import get_metric
from r2t2_jax.runtime.batching import AdaptiveBatchSize
from tests.toy_port import make_samples, toy

PRESET = Preset.from_mapping(toy().presets["toy"])


@pytest.fixture(scope="module")
def setup():
    exact = get_metric("exact_match")
    bank = collect_bank(toy(), make_samples(40, seed=3, hinted=0.4), exact, keep_wrong=True)
    strategies = {name: method_of(name, PRESET) for name in ("base", "kernel_regression", "ngd")}
    return Evaluator.create(toy(), bank, strategies, exact)


def test_evaluations_are_those_of_the_rows_and_flops_those_of_the_programs(setup):
    (question,) = make_samples(1, seed=1, hinted=0.4)
    found = forecast(setup, question, 4)
    steps, k = PRESET.steps, PRESET.k
    assert {name: cost.evaluations for name, cost in found.costs.items()} == {
        "base": 1,
        "kernel_regression": 2,
        "ngd": 1 + 2 * steps * k + 1,
    }
    port, image = toy(), 15  # one forward multiplies E = 3 weights into V = 5 votes: 2 x 15 FLOPs
    forward = count_flops(jax.make_jaxpr(port.model.answer_loss)(port.params, *_arguments(port, question)))
    assert forward == 2 * image
    assert found.costs["ngd"].flops - found.costs["base"].flops >= steps * k * 2 * forward


def _arguments(port, question):
    inputs = jax.tree.map(lambda leaf: leaf[0], port.processor.prepare(port.params, [question]))
    return port.model.encode(port.params, inputs), None, np.asarray(0)


def test_memory_grows_with_the_batch_by_what_a_case_holds(setup):
    (question,) = make_samples(1, seed=1, hinted=0.4)
    two, eight = (forecast(setup, question, size).memory for size in (2, 8))
    assert two.parameters == 8  # two numbers in float32
    assert eight.case == pytest.approx(two.case, rel=0.3)
    votes, gate, answer, routing = 3 * 5 * 4, 3 * 4, 8, 2 * 3 * 4
    assert two.case > (PRESET.k + 1) * (votes + gate) + PRESET.k * (answer / 2 + routing)
    assert eight.of_batch(8) - eight.of_batch(4) == 4 * eight.case


@pytest.mark.parametrize(("available", "size"), [(10_000, 32), (4_000, 16), (1_200, 4), (10, 1)])
def test_the_batch_is_halved_until_it_fits(available, size):
    memory = Memory(parameters=100, case=100, activations=500)
    assert memory.largest_batch(available, 32) == size


def test_a_device_with_a_memory_of_its_own_takes_as_many_as_fit(setup, monkeypatch):
    samples = make_samples(8, seed=1, hinted=0.4)
    benchmarks = {"set": QuestionSet(Source("set"), samples, "exact_match")}
    strategies, bank = setup.strategies, setup.index.bank
    job = jobs.Job([toy()], device_groups("", 1), bank, benchmarks, strategies, PRESET, 0, batch=8, fitted=True)
    memory, told = job.forecast().memory, []
    monkeypatch.setattr(jobs, "device_memory", lambda: int(memory.of_batch(2) / 0.9) + 1)
    assert job._device_batch(told.append) == (2, 1)
    (line,) = told
    assert line.startswith("2 questions at a time, vmap size 1, take ")
    for changed in (dataclasses.replace(job, fitted=False), job):
        assert changed._device_batch(told.append) == (2 if changed.fitted else 8, 1)
    monkeypatch.setattr(jobs, "device_memory", lambda: 100 * memory.of_batch(8))
    for given, wide in (
        (None, 8),
        (1, 1),
        (2, 2),
    ):  # all of a batch go abreast where they fit and nobody says otherwise
        assert dataclasses.replace(job, vmap_size=given)._device_batch(told.append) == (8, wide)
    monkeypatch.setattr(jobs, "device_memory", lambda: None)  # as a CPU
    assert job._device_batch(told.append) == (8, 1)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    together = AdaptiveBatchSize(4, lambda line: pytest.fail(line))

    def fails(size):
        raise R2T2Error("no such thing")

    with pytest.raises(R2T2Error, match="no such thing"):
        together.fit(fails)


def test_as_many_go_abreast_as_the_compiled_program_fits(setup):
    (question,) = make_samples(1, seed=1, hinted=0.4)
    found = forecast(setup, question, 8)
    one, four = found.memory, found.measure(4)
    assert (one.vmap_size, four.vmap_size) == (1, 4)
    assert four.activations > one.activations  # four samples' losses and gradients lie in memory at a time
    assert found.widest(10 * four.of_batch(8), 8).vmap_size == 8
    least = int(four.of_batch(8) / 0.9) + 1  # the estimate of eight may be below what four take: both are compiled
    assert found.widest(least, 8).of_batch(8) <= 0.9 * least
    assert found.widest(one.of_batch(8), 8) == one


@pytest.mark.parametrize("hungry", ["_reroute_samples", "encode_batch", "generate_tokens"])
def test_the_hungriest_program_counts(setup, monkeypatch, hungry):
    def sizes(lowered):
        temporary = 7_000 if hungry in lowered.as_text() else 5_000
        return SimpleNamespace(temp_size_in_bytes=temporary, argument_size_in_bytes=0, output_size_in_bytes=0)

    monkeypatch.setattr(forecasting, "_sizes", sizes)
    assert forecast(setup, make_samples(1, seed=1, hinted=0.4)[0], 4).memory.activations == 7_000


def test_what_the_compiled_program_takes_beats_the_estimate():
    taken = {8: 4_000, 4: 2_500, 2: 900}  # more than in proportion to the 400 of one
    asked = []

    def measure(vmap_size):
        asked.append(vmap_size)
        return Memory(parameters=0, case=0, activations=taken[vmap_size], vmap_size=vmap_size)

    found = Forecast({}, Memory(parameters=0, case=0, activations=400), measure)
    assert found.widest(4_000, 32).vmap_size == 4
    assert asked == [8, 4]
    assert found.widest(1_000, 32).vmap_size == 2
