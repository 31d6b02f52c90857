"""Banks built on disk: their contents, interruptions while they are built, and errors."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.storage import install
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation import build_bank as build_bank_module
from r2t2_jax.evaluation.build_bank import BankConfig, build_bank
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.feature_cache import with_samples
from r2t2_jax.evaluation.question_sets import QuestionSet
from r2t2_jax.evaluation.setup import with_decoding
from r2t2_jax.metrics import get_metric
from r2t2_jax.runs.batch_files import saved_batches
from tests.evaluation import bank_worker
from tests.evaluation.bank_worker import CONFIG, SETTINGS, build, sets
from tests.toy_port import END, WORDS, ToyEmbedder, ToyModel, make_samples, toy

BATCHES = 15 + 5


def files(folder):
    """The contents of all files except the timings."""
    paths = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != "timings.jsonl")
    return {str(file.relative_to(folder)): file.read_bytes() for file in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "bank"
    build(path)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    return files(folder)


def test_rows_are_those_of_a_bank_collected_in_memory(folder):
    # The correct rows up to the limit of 25 per set, with their features.
    bank = ReferenceBank.open(folder)
    template = collect_bank(toy(), make_samples(4, seed=1, hinted=1), get_metric("exact_match"))
    bank = bank.with_stored_samples(template.features, template.answers).only_correct()
    first = 0
    for questions in sets().values():
        expected = collect_bank(toy(), questions.samples, get_metric("exact_match"))
        rows = min(25, len(expected))
        part = np.arange(first, first + rows)
        np.testing.assert_array_equal(bank.routing[part], expected.routing[:rows])
        np.testing.assert_array_equal(bank.embeddings[part], expected.embeddings[:rows])
        assert [bank.records[i]["id"] for i in part] == [record["id"] for record in expected.records[:rows]]
        for a, b in zip(
            jax.tree.leaves(bank.samples(part)), jax.tree.leaves(expected.samples(np.arange(rows))), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        first += rows
    assert first == len(bank)


def test_wrong_rows_are_kept_and_flagged(folder):
    bank = ReferenceBank.open(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sources"]["many"]["correct"] == 25
    assert summary["rows"] == len(bank) > int(bank.right.sum()) == summary["correct"]
    for record, right in zip(bank.records, bank.right, strict=True):
        assert record["correct"] == right == (record["prediction"] == record["answer"])
    assert {record["source"] for record in bank.records} == {"many", "few"}
    assert list(bank.records)[-1]["correct"] or summary["sources"]["few"]["rows"] == 18


def test_only_correct_rows_can_be_kept(folder, tmp_path):
    build(tmp_path / "bank", config=dataclasses.replace(CONFIG, keep="correct"))
    bank, all_rows = ReferenceBank.open(tmp_path / "bank"), ReferenceBank.open(folder)
    assert bank.right.all()
    np.testing.assert_array_equal(bank.routing, all_rows.only_correct().routing)


def test_features_that_are_not_stored_are_computed_again(folder, tmp_path):
    build(tmp_path / "bank", config=dataclasses.replace(CONFIG, features=False))
    samples = [sample for questions in sets().values() for sample in questions.samples]
    bank = with_samples(ReferenceBank.open(tmp_path / "bank"), toy(), samples)
    sample = bank.samples(np.array([0]))
    stored = ReferenceBank.open(folder).with_stored_samples(*sample)
    rows = np.array([3, 30, 3])
    for a, b in zip(jax.tree.leaves(bank.samples(rows)), jax.tree.leaves(stored.samples(rows)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_building_a_finished_bank_again_changes_nothing(folder, whole):
    assert build(folder) == json.loads((folder / "summary.json").read_text())
    assert files(folder) == whole


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_change_nothing(times, tmp_path, whole):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.evaluation.bank_worker"])
    rng = random.Random(times)
    kills = 0
    while kills < times:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        process = context.Process(target=bank_worker.build, args=(str(folder), 0.02))
        process.start()
        target = rng.randrange(1, BATCHES)
        while len(saved_batches(folder)) < target and process.is_alive():
            time.sleep(0.001)
        time.sleep(0.02 * rng.random())
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        if (folder / "bank.json").exists():
            continue  # too late
        assert saved_batches(folder)
        kills += 1
        with pytest.raises(
            R2T2Error, match=r"is an unfinished bank; resume with: r2t2 bank build --config .*run\.json"
        ):
            ReferenceBank.open(folder)
        build(folder)
        assert files(folder) == whole


def test_a_kill_while_the_files_are_moved_changes_nothing(tmp_path, whole, monkeypatch):
    def killed(draft, folder):
        (draft / "embeddings.npy").rename(folder / "embeddings.npy")
        (draft / "features").rename(folder / "features")
        raise MemoryError

    monkeypatch.setattr(build_bank_module, "install", killed)
    with pytest.raises(MemoryError):
        build(tmp_path / "bank")
    with pytest.raises(R2T2Error, match="unfinished bank"):
        ReferenceBank.open(tmp_path / "bank")
    monkeypatch.setattr(build_bank_module, "install", install)
    build(tmp_path / "bank")
    assert files(tmp_path / "bank") == whole


def test_other_settings_are_refused(folder):
    with pytest.raises(R2T2Error, match=r"settings\.model is .toy. there and .other. here"):
        build_bank(folder, toy(), sets(), CONFIG, {"model": "other"})


class Broken(ToyEmbedder):
    def __init__(self, value):
        self.value = value

    def embed(self, texts):
        vectors = super().embed(texts)
        vectors[[i for i, text in enumerate(texts) if "right" in text]] = self.value
        return vectors


@pytest.mark.parametrize(("value", "fault"), [(np.nan, "NaN or infinite"), (0.0, "zero"), (2.0, "not of unit length")])
def test_bad_embeddings_are_refused_and_their_samples_named(value, fault, tmp_path):
    samples = make_samples(10, seed=5, hinted=1)
    bad = [sample.id for sample in samples if "right" in sample.question]
    assert 0 < len(bad) <= 5
    question_sets = {"set": QuestionSet(sets()["many"].source, samples, "exact_match")}
    port = dataclasses.replace(toy(), embedder=Broken(value))
    with pytest.raises(R2T2Error, match=f"question embeddings of {', '.join(bad)} are {fault}"):
        build_bank(tmp_path / "bank", port, question_sets, BankConfig(batch=10), SETTINGS)
    assert not (tmp_path / "bank").exists()


def test_bad_routing_is_refused_and_its_samples_named(tmp_path):
    port = dataclasses.replace(toy(), params={"gate": np.float32(np.nan), "scale": np.float32(8.0)})
    with pytest.raises(R2T2Error, match=r"toy: routing of 1-0, .* are NaN or infinite"):
        build_bank(tmp_path / "bank", port, sets(), CONFIG, SETTINGS)


@pytest.mark.parametrize("keep", ["all", "correct"])
def test_few_correct_answers_are_reported_with_answers_and_truths(keep, tmp_path):
    samples = make_samples(41, seed=1, hinted=1)
    few = [sample if i < 2 else dataclasses.replace(sample, answers=("gray",)) for i, sample in enumerate(samples)]
    source = sets()["many"].source
    question_sets = {
        "few": QuestionSet(source, few, "exact_match"),
        "many": QuestionSet(source, samples[:9], "exact_match"),
    }
    warnings = []
    config = BankConfig(batch=10, keep=keep)
    summary = build_bank(tmp_path / "bank", toy(), question_sets, config, SETTINGS, log=warnings.append)
    right = summary["sources"]["few"]["correct"]
    assert right <= 2 and summary["sources"]["few"]["answered"] == 41
    assert summary["sources"]["few"]["rows"] == (41 if keep == "all" else right)
    (warning,) = warnings
    assert warning.startswith(f"few: only {right} of 41 answers are correct") and warning.count(" for 'gray'") == 5


class Beams(ToyModel):
    """Beam search answers `red`, greedy search as the toy does."""

    def generate_beams(self, params, features, routing, max_new_tokens, num_beams):
        return jnp.full(max_new_tokens, END).at[0].set(WORDS.index("red"))


def test_answers_of_a_bank_are_decoded_as_the_port_says(tmp_path):
    samples = make_samples(12, seed=1, hinted=1)
    question_sets = {"set": QuestionSet(sets()["many"].source, samples, "exact_match")}
    port = with_decoding(dataclasses.replace(toy(), model=Beams()), 3)
    build_bank(tmp_path / "bank", port, question_sets, BankConfig(batch=6), SETTINGS)
    assert {record["prediction"] for record in ReferenceBank.open(tmp_path / "bank").records} == {"red"}
    depends = json.loads((tmp_path / "bank" / "run.json").read_text())
    assert depends["decoding"] == {"beams": 3, "max_new_tokens": {"set": 2}}
    with pytest.raises(R2T2Error, match="toy has no beam search: leave out --beams 3"):
        with_decoding(toy(), 3)
    with pytest.raises(R2T2Error, match="0 beams"):
        with_decoding(port, 0)


def test_a_model_without_correct_answers_gives_no_bank(tmp_path):
    wrong = [dataclasses.replace(sample, answers=("gray",)) for sample in make_samples(6, seed=1, hinted=1)]
    question_sets = {"set": QuestionSet(sets()["many"].source, wrong, "exact_match")}
    config, warnings = BankConfig(batch=3), []
    with pytest.raises(R2T2Error, match="toy answered none of the questions correctly"):
        build_bank(tmp_path / "bank", toy(), question_sets, config, SETTINGS, log=warnings.append)
    assert not (tmp_path / "bank").exists()
    (warning,) = warnings
    assert warning.startswith(
        "set: only 0 of 6 answers are correct by the metric exact_match; check metric and prompt."
    )
    assert warning.count("' for 'gray'") == 5
    with pytest.raises(R2T2Error, match="a limit of 0"):
        BankConfig(limit=0)
