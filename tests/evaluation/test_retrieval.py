"""The quality of neighbors, computed by hand."""

import numpy as np
import pytest

from r2t2_jax.contract import Sample
from r2t2_jax.evaluation.references import _smallest, neighbor_quality, right_without_image, same_experts
from r2t2_jax.metrics import get_metric


def sample(question: str, answer: str, *experts: str) -> Sample:
    return Sample(
        id=question, image=np.zeros((1, 1, 3), np.uint8), question=question, answers=(answer,), experts=experts
    )


class Letters:
    """Texts by their first letter."""

    fingerprint = "letters"

    def embed(self, texts):
        return np.eye(26, dtype=np.float32)[[ord(text[0]) - ord("a") for text in texts]]


def test_neighbors_agree_on_the_whole_set_of_experts():
    samples = [sample("a", "1", "color", "shape"), sample("b", "2", "size")]
    references = {"r": ("shape", "color"), "s": ("color",), "t": ("size",)}
    shares = same_experts(references, samples, [["r", "s"], ["t", "t"]])
    assert shares.tolist() == [0.5, 1.0]


def test_accuracy_is_split_at_half():
    quality = neighbor_quality(np.array([0.5, 0.6, 1.0, 0.0]), np.array([True, True, False, False]))
    assert quality == {
        "same_experts": pytest.approx(0.525),
        "most": {"n": 2, "accuracy": 0.5},
        "few": {"n": 2, "accuracy": 0.5},
    }


def test_a_side_without_samples_has_no_accuracy():
    assert neighbor_quality(np.array([1.0]), np.array([True]))["few"] == {"n": 0, "accuracy": None}


def test_without_the_image_the_most_frequent_answer_of_similar_questions_is_given():
    # 50 vote: all of one letter, then the first of the others.
    references = [sample("a", "yes")] * 40 + [sample("a", "no")] * 20 + [sample("b", "no")] * 60
    right = right_without_image(
        Letters(), references, [sample("a", "yes"), sample("a", "no"), sample("b", "no")], get_metric("exact_match")
    )
    assert right.tolist() == [True, False, True]


def test_the_smallest_values_are_those_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    for n, k in zip(rng.integers(1, 60, 200).tolist(), rng.integers(1, 12, 200).tolist(), strict=True):
        values = rng.integers(0, 8, n).astype(np.float32)  # with many equal ones
        assert _smallest(values, k) == np.argsort(values, kind="stable")[:k].tolist()
