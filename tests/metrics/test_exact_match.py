"""Accepted and rejected differences from the answer, and what metrics need of a set."""

import contextlib
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.catalog import DATASETS
from r2t2_jax.errors import R2T2Error
from r2t2_jax.metrics import METRICS, check_samples, get_metric
from r2t2_jax.metrics.exact_match import exact_match

SAMPLE = Sample(id="1", image=np.zeros((1, 1, 3), np.uint8), question="?", answers=("Dark red", "1.5"))


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("dark red", 1.0),
        ("  DARK   red.\n", 1.0),
        ("1.5", 1.0),
        ("15", 0.0),
        ("red", 0.0),
        ("dark red one", 0.0),
        ("", 0.0),
    ],
)
def test_exact_match_ignores_case_spaces_and_final_punctuation(prediction: str, score: float) -> None:
    assert exact_match(prediction, SAMPLE) == score


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        (unicodedata.normalize("NFD", "café"), "café"),
        ("café", unicodedata.normalize("NFD", "Café")),
        ("是。", "是"),
        ("赤！", "赤"),
        ("लाल।", "लाल"),
        ("أحمر؟", "أحمر"),
    ],
)
def test_encodings_of_accents_and_full_stops_of_other_scripts_are_equal(prediction: str, answer: str) -> None:
    assert exact_match(prediction, replace(SAMPLE, answers=(answer,))) == 1.0


DEFAULTS = {"vqav2": 10, "cocoqa": 1, "clevr": 1, "gqa": 1, "aokvqa_direct": 10}


@pytest.mark.parametrize(("name", "people"), DEFAULTS.items())
def test_the_default_metrics_ignore_case_and_a_final_full_stop(name: str, people: int) -> None:
    metric, sample = get_metric(DATASETS[name].metric), replace(SAMPLE, answers=("yes",) * people)
    assert [metric(text, sample) for text in ("yes", "Yes", "Yes.", "no", "")] == [1.0, 1.0, 1.0, 0.0, 0.0]


def test_the_strict_official_scores_keep_their_names() -> None:
    sample = replace(SAMPLE, answers=("yes",) * 10)
    for name in ("vqa", "gqa", "clevr", "cocoqa", "aokvqa_direct"):
        assert get_metric(name)("Yes.", sample) == 0.0 and get_metric(name)("yes", sample) == 1.0


@pytest.mark.parametrize(
    ("text", "options", "score"),
    [
        ("The answer is dog.", ("cat", "dog", "bird"), 1.0),  # there is no option D
        ("The answer is different.", ("identical", "different"), 1.0),
        ("The correct answer is **B**", ("cat", "dog"), 1.0),
        ("The answer is daytime", ("daytime", "nighttime"), 0.0),
        ("The answer is dog.", ("cat", "dog", "bird", "cow"), 0.0),  # read as D, as VLMEvalKit does
        ("The answer is cat.", ("owl", "cat", "", "bird"), 1.0),  # C has no option
    ],
)
def test_mmbench_reads_a_letter_in_a_sentence_only_if_it_is_offered(text: str, options: tuple, score: float) -> None:
    assert get_metric("mmbench")(text, replace(SAMPLE, answers=("B",), options=options)) == score


OPEN, LETTER = SAMPLE, replace(SAMPLE, answers=("B",), options=("cat", "dog"), style="letter")


@pytest.mark.parametrize("name", METRICS)
def test_metrics_refuse_or_score_any_sample(name: str) -> None:
    for sample in (OPEN, LETTER, replace(SAMPLE, answers=("yes",) * 10), replace(SAMPLE, answers=("yes",))):
        with contextlib.suppress(R2T2Error):
            check_samples(name, [sample], "a set")
            assert 0.0 <= get_metric(name)("anything", sample) <= 1.0


@pytest.mark.parametrize(
    ("name", "sample", "need"),
    [
        *((name, OPEN, "options whose answer is a letter") for name in ("visual7w", "aokvqa_letter", "ai2d_cambrian")),
        ("mmbench", replace(LETTER, options=("cat", "")), "options whose answer is a letter"),
        *((name, OPEN, "10 human answers of each question, not 2") for name in ("vqa", "textvqa", "aokvqa_direct")),
        ("mme", OPEN, "questions whose answer is yes or no"),
    ],
)
def test_a_metric_says_what_a_set_lacks(name: str, sample: Sample, need: str) -> None:
    with pytest.raises(R2T2Error, match=need):
        check_samples(name, [sample], "a set")


def test_an_unknown_metric_lists_the_known_ones() -> None:
    assert get_metric("exact_match") is exact_match
    with pytest.raises(R2T2Error, match="unknown metric 'bleu'; choose one of exact_match"):
        get_metric("bleu")
