"""Collecting a bank and evaluating strategies, with a port whose answers can be computed by hand."""

import dataclasses

import jax
import numpy as np
import pyarrow as pa
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.batch import evaluate_batch
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import Evaluator, evaluate
from r2t2_jax.evaluation.records import result_rows
from r2t2_jax.methods import baseline, find_preset, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs.batch_files import to_table
from tests.toy_port import EXPERTS, WORDS, make_samples, toy

METRIC = get_metric("exact_match")
NAMES = ("base", "uniform", "ngd", "kernel_regression", "task_routing", "best_of_n")


def by_hand(sample, expert: int) -> str:
    return WORDS[sample.image[0, expert, 0]]


def router_choice(sample) -> int:
    return EXPERTS.index(sample.category) if sample.image[0, -1, 0] else 0


@pytest.fixture(scope="module")
def port():
    return toy()


@pytest.fixture(scope="module")
def references():
    return make_samples(60, seed=1, hinted=0.5)


@pytest.fixture(scope="module")
def bank(port, references):
    return collect_bank(port, references, METRIC, batch_size=16)


@pytest.fixture(scope="module")
def evaluated(port, bank):
    return run(port, bank, batch_size=8)


def run(port, bank, batch_size, names=NAMES):
    preset = find_preset("toy", port.presets)
    questions = encode_questions(port, make_samples(21, seed=2, hinted=0.2), batch_size)
    chosen = {name: strategy(name, preset) for name in names}
    return questions, {o.name: o for o in evaluate(port, bank, questions, chosen, METRIC, batch_size=batch_size)}


def test_the_bank_contains_the_correctly_answered_samples(port, references, bank) -> None:
    correct = [sample for sample in references if by_hand(sample, router_choice(sample)) == sample.answers[0]]
    assert 0 < len(correct) < len(references)
    assert [record["id"] for record in bank.records] == [sample.id for sample in correct]
    assert len(bank) == len(correct)
    np.testing.assert_array_equal(bank.routing.argmax(axis=-1)[:, 0], [router_choice(sample) for sample in correct])
    np.testing.assert_array_equal(bank.answers, port.processor.answer_ids([sample.answers[0] for sample in correct]))
    np.testing.assert_array_equal(bank.embeddings, port.embedder.embed([sample.question for sample in correct]))


def test_a_model_without_a_correct_answer_gives_no_bank(port) -> None:
    wrong = [dataclasses.replace(sample, answers=("pink",)) for sample in make_samples(5, seed=1, hinted=1)]
    processor = dataclasses.make_dataclass("P", [])()
    processor.prepare, processor.decode = port.processor.prepare, port.processor.decode
    processor.answer_ids = lambda answers: np.zeros(len(answers), int)
    with pytest.raises(R2T2Error, match="toy answered none of 5 reference questions correctly"):
        collect_bank(dataclasses.replace(port, processor=processor), wrong, METRIC)
    with pytest.raises(R2T2Error, match="no sample"):
        collect_bank(port, [], METRIC)


def test_answers_are_those_computed_by_hand(evaluated) -> None:
    questions, results = evaluated
    assert results["base"].predictions == [by_hand(sample, router_choice(sample)) for sample in questions.samples]
    assert results["task_routing"].right.all()
    assert results["ngd"].right.mean() > results["base"].right.mean()
    for result in results.values():
        expected = [
            sample.answers[0] == answer for sample, answer in zip(questions.samples, result.predictions, strict=True)
        ]
        np.testing.assert_array_equal(result.right, expected)


def test_neighbors_have_the_same_question(bank, evaluated) -> None:
    questions, results = evaluated
    for name in ("ngd", "kernel_regression"):
        assert results[name].neighbors.shape == results[name].kernel_weights.shape == (21, 5)
        for sample, indices in zip(questions.samples, results[name].neighbors, strict=True):
            assert {bank.records[i]["question"] for i in indices} == {sample.question}
    assert results["base"].neighbors.shape == results["base"].kernel_weights.shape == (21, 0)


def test_paths_begin_at_the_router_and_end_at_the_weights(evaluated) -> None:
    questions, results = evaluated
    for name in ("base", "ngd"):
        np.testing.assert_allclose(results[name].path[:, 0], questions.queries.routing, atol=1e-6)
        np.testing.assert_array_equal(results[name].path[:, -1], results[name].weights)
    assert results["ngd"].path.shape == (21, 11, 2, 3)
    assert (results["base"].evaluations, results["ngd"].evaluations) == (1, 102)


def test_results_do_not_depend_on_the_batch(port, bank, evaluated) -> None:
    _, expected = evaluated
    _, results = run(port, bank, batch_size=21, names=("best_of_n", "ngd"))
    for name, result in results.items():
        np.testing.assert_array_equal(result.weights, expected[name].weights)
        assert result.predictions == expected[name].predictions


def test_there_is_one_row_per_sample(port, bank, evaluated) -> None:
    questions, results = evaluated
    result, sample = results["ngd"], questions.samples[3]
    records = result_rows(result, port.name, bank.records)
    assert [record["id"] for record in records] == [sample.id for sample in questions.samples]
    record = records[3]
    assert (record["model"], record["strategy"]) == ("toy", "ngd")
    assert record["answers"] == list(sample.answers)
    assert record["prediction"] == result.predictions[3]
    assert record["right"] == (record["prediction"] == sample.answers[0])
    np.testing.assert_array_equal(record["path"].reshape(-1, 2, 3)[-1], record["weights"].reshape(2, 3))
    assert record["neighbors"] == [bank.records[i]["id"] for i in result.neighbors[3]]


def test_the_answers_along_a_path_are_those_of_its_weights(port, bank, evaluated) -> None:
    questions, results = evaluated
    preset = find_preset("toy", port.presets)
    batch = Evaluator.create(port, bank, {"ngd": strategy("ngd", preset)}, METRIC).prepare_batch(questions)
    (result,) = evaluate_batch(batch, ["ngd"], at_path=["ngd"])
    assert result.step_scores.shape == result.own_losses.shape == (21, 11)
    assert [steps[0] for steps in result.step_predictions] == results["base"].predictions
    assert [steps[-1] for steps in result.step_predictions] == results["ngd"].predictions
    np.testing.assert_array_equal(result.step_scores[:, -1], results["ngd"].scores)
    assert (result.step_scores[:, 0] != result.step_scores[:, -1]).any()
    shifted = {"ngd": strategy("ngd", preset.with_settings({"space.kind": "shift"}))}
    with pytest.raises(R2T2Error, match="ngd moves in the shift space"):
        evaluate_batch(Evaluator.create(port, bank, shifted, METRIC).prepare_batch(questions), at_path=["ngd"])


def test_rows_and_chunks_of_a_batch_give_the_same_results(port, bank, evaluated) -> None:
    questions, results = evaluated
    strategies = {name: strategy(name, find_preset("toy", port.presets)) for name in ("base", "ngd")}
    batch = Evaluator.create(port, bank, strategies, METRIC).prepare_batch(questions)
    for result in evaluate_batch(batch, start=3, stop=10, chunk_size=4, at_path=["ngd"]):
        whole = results[result.name]
        assert [sample.id for sample in result.samples] == [sample.id for sample in questions.samples[3:10]]
        assert result.predictions == whole.predictions[3:10]
        assert len(result.step_scores) == len(result.scores) == 7
        for field in ("scores", "weights", "path", "neighbors", "similarities", "kernel_weights", "router_weights"):
            np.testing.assert_array_equal(getattr(result, field), getattr(whole, field)[3:10])


def test_without_a_metric_scores_are_nan_and_without_a_bank_there_are_no_neighbors(port, bank, evaluated) -> None:
    questions, results = evaluated
    batch = Evaluator.create(port, None, {"base": strategy("base")}, None).prepare_batch(questions)
    (result,) = evaluate_batch(batch)
    assert result.predictions == results["base"].predictions
    assert np.isnan(result.scores).all()
    assert result.neighbors.shape == (21, 0)
    for method in (strategy("ngd"), strategy("best_fixed"), baseline("neighbor_vote")):
        with pytest.raises(R2T2Error, match="reads references: give a bank"):
            Evaluator.create(port, None, {method.name: method}, METRIC)


def test_permuted_labels_are_those_of_references_of_the_family(port, bank, evaluated) -> None:
    questions, results = evaluated
    names = ("base_permuted", "oracle_permuted", "oracle")
    strategies = {name: strategy(name, find_preset("toy", port.presets)) for name in names}
    batch = Evaluator.create(port, bank, strategies, METRIC).prepare_batch(questions)
    base, permuted, oracle = evaluate_batch(batch)
    labels = {}
    for record in bank.records:
        labels.setdefault(record["category"], set()).add(record["answer"])
    for sample, own in zip(base.samples, questions.samples, strict=True):
        assert sample.answers[0] in labels[sample.category]
        assert dataclasses.replace(sample, answers=own.answers) == own
    assert base.predictions == results["base"].predictions
    targets = [sample.answers[0] for sample in permuted.samples]
    assert targets == [sample.answers[0] for sample in base.samples]
    assert targets != [sample.answers[0] for sample in questions.samples] == [s.answers[0] for s in oracle.samples]
    np.testing.assert_array_equal(base.scores, [a == b for a, b in zip(base.predictions, targets, strict=True)])
    assert permuted.scores.sum() > base.scores.sum()  # the descent fits labels that are not the question's
    (part,) = evaluate_batch(batch, ["oracle_permuted"], start=3, stop=10)
    assert part.predictions == permuted.predictions[3:10]
    np.testing.assert_array_equal(part.scores, permuted.scores[3:10])
    with pytest.raises(R2T2Error, match="oracle_permuted reads references: give a bank"):
        Evaluator.create(port, None, {"oracle_permuted": strategies["oracle_permuted"]}, METRIC)


def test_a_bank_of_another_model_is_refused_with_both_named(port, bank) -> None:
    other = dataclasses.replace(port, fingerprint="toy-2")
    with pytest.raises(R2T2Error, match="made with model 'toy-1', this is model 'toy-2'"):
        run(other, bank, 8)


def test_more_neighbors_than_references_are_refused(port, bank) -> None:
    greedy = dataclasses.replace(port, presets={"toy": {"neighborhood.k": len(bank) + 1}})
    with pytest.raises(R2T2Error, match=f"k={len(bank) + 1} neighbors from a bank of {len(bank)}"):
        run(greedy, bank, 8)


def test_x64_mode_writes_rows_of_one_dtype(port, bank, evaluated) -> None:
    questions, expected = evaluated
    preset = find_preset("toy", port.presets)
    chosen = {name: strategy(name, preset) for name in ("base", "ngd", "mode_finding")}
    with jax.enable_x64(True):
        results = evaluate(port, bank, encode_questions(port, questions.samples[:2]), chosen, METRIC)
        table = to_table([row for result in results for row in result_rows(result, "toy", bank.records)])
    assert table.schema.field("path").type == table.schema.field("weights").type == pa.list_(pa.float32())
    for result in results[:2]:
        assert result.predictions == expected[result.name].predictions[:2]
        np.testing.assert_allclose(result.weights, expected[result.name].weights[:2], atol=1e-5)


def test_a_ball_is_not_capped_and_rows_have_the_references_inside(port, bank) -> None:
    questions = encode_questions(port, make_samples(2, seed=2, hinted=0.2))
    preset = find_preset("toy", port.presets).with_settings({"neighborhood.epsilon": 0.5})
    same = [sum(record["question"] == sample.question for record in bank.records) for sample in questions.samples]
    assert min(same) > 5
    (result,) = evaluate(port, bank, questions, {"kernel_regression": strategy("kernel_regression", preset)}, METRIC)
    rows = result_rows(result, "toy", bank.records)
    assert [len(row["neighbors"]) for row in rows] == [len(row["kernel_weights"]) for row in rows] == same
    for settings in ({"neighborhood.max_in_ball": 5}, {"neighborhood.k": 7}):
        selector = strategy("ngd", preset.with_settings(settings)).selector
        assert selector.k == next(iter(settings.values()))
