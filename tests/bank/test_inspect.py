"""Statistics of a bank against values computed by hand, and the test of whether routing depends on the question."""

import dataclasses

import numpy as np
import pytest

from r2t2_jax.bank import ReferenceBank
from r2t2_jax.bank.inspect import find_leakage, inspect_bank, other_neighbors, routing_predictability
from r2t2_jax.errors import R2T2Error
from r2t2_jax.reporting.bank_report import inspection_page, inspection_text
from r2t2_jax.retrieval.hashed_bag_of_words import HashedBagOfWords
from r2t2_jax.routing import RoutingSpec
from tests.toy_port import make_samples

RNG = np.random.default_rng(0)


def unit(n, m=8):
    vectors = RNG.normal(size=(n, m)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_neighbors_are_other_references_nearest_first():
    vectors = unit(40)
    near = np.linalg.norm(vectors[None] - vectors[:, None], axis=-1)
    np.fill_diagonal(near, np.inf)
    np.testing.assert_array_equal(other_neighbors(vectors, 4), np.argsort(near, axis=1, kind="stable")[:, :4])


def test_no_reference_is_its_own_neighbor_among_equal_vectors():
    result = other_neighbors(np.repeat(unit(1), 9, axis=0), 3)
    assert all(i not in row for i, row in enumerate(result.tolist()))
    np.testing.assert_array_equal(result[0], [1, 2, 3])
    np.testing.assert_array_equal(result[8], [0, 1, 2])


def test_r2_is_that_of_predicting_each_by_the_mean_of_its_neighbors():
    embeddings, routing = unit(60), RNG.dirichlet(np.ones(4), (60, 2))
    neighbors = other_neighbors(embeddings, 5)
    flat = routing.reshape(60, -1)
    errors = np.square(flat - flat[neighbors].mean(axis=1)).sum()
    expected = 1 - errors / np.square(flat - flat.mean(axis=0)).sum()
    assert routing_predictability(routing, embeddings).r2 == pytest.approx(expected, abs=1e-12)


def test_independent_weights_are_not_informative_and_give_minus_one_over_k():
    for k in (2, 5):
        result = routing_predictability(RNG.dirichlet(np.ones(6), (1500, 1)), unit(1500), k)
        assert not result.informative
        assert result.r2 == pytest.approx(-1 / k, abs=0.05) == pytest.approx(result.null, abs=0.05)


def test_p_is_uniform_for_independent_weights():
    # 60 banks of independent weights: about 3 below 0.05; 12 or more have probability 1e-4.
    values = [routing_predictability(RNG.dirichlet(np.ones(3), (40, 1)), unit(40)).p for _ in range(60)]
    assert sum(p <= 0.05 for p in values) < 12
    assert sum(p <= 0.5 for p in values) in range(15, 46)


def test_weights_that_depend_on_the_question_are_informative():
    embeddings = unit(400, 3)
    routing = np.abs(embeddings)[:, None] + 0.02 * RNG.random((400, 1, 3))
    result = routing_predictability(routing, embeddings)
    assert result.informative and result.r2 > 0.8
    assert result.p == pytest.approx(1 / 1000)


def test_equal_weights_give_no_result_and_few_references_are_refused():
    assert routing_predictability(np.full((30, 1, 3), 1 / 3), unit(30)) is None
    with pytest.raises(R2T2Error, match="6 references are too few for 5 neighbors"):
        routing_predictability(RNG.random((6, 1, 3)), unit(6))


def small_bank():
    routing = np.array([[0.7, 0.3, 1.0], [0.2, 0.8, 1.0], [0.5, 0.5, 1.0], [0.9, 0.1, 1.0]] * 3)[:, None]
    records = [
        {
            "id": str(i),
            "source": "a" if i < 4 else "b",
            "question": ["What is it?", "what  is it?", "Which?", f"Who {i}?"][i % 4],
            "image_sha256": "same" if i < 2 else str(i),
        }
        for i in range(12)
    ]
    return ReferenceBank(
        None,
        None,
        routing,
        unit(12),
        records,
        correct=np.arange(12) % 4 != 3,
        spec=RoutingSpec(("x", "y", "z"), 1, ((0, 1), (2,))),
        model_fingerprint="toy<1>",
    )


def test_statistics_equal_those_computed_by_hand():
    result = inspect_bank(small_bank(), k=2)
    assert (result.rows, result.correct, result.layers) == (12, 9, 1)
    assert [(source.name, source.rows, source.correct) for source in result.sources] == [("a", 4, 3), ("b", 8, 6)]
    assert result.repeated_questions == 12 - 5  # "what is it?", "which?", and three different "who"
    assert result.repeated_rows == 1  # rows 0 and 1 share question and image
    assert [use.name for use in result.experts] == ["x", "y", "z"]
    assert [use.largest for use in result.experts] == pytest.approx([0.75, 0.25, 1.0])  # a tie counts for the first
    assert [use.mean for use in result.experts] == pytest.approx([0.575, 0.425, 1.0])
    shares = np.array([0.7, 0.2, 0.5, 0.9])
    entropy = -(shares * np.log2(shares) + (1 - shares) * np.log2(1 - shares)).mean()
    assert result.entropy == pytest.approx(entropy)


def test_text_and_page_have_the_same_contents_and_escape_names():
    result = inspect_bank(small_bank(), k=2)
    text, page = inspection_text("Bank x", result, None), inspection_page("Bank x", result, None)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "toy<1>" in text and "toy&lt;1&gt;" in page and "toy<1>" not in page
    assert "independent draws" in " ".join(text.split())
    for name in ("x", "y", "z"):
        assert f'<th scope="row">{name}</th>' in page


def leaky(samples, **changes):
    from r2t2_jax.bank.manifest import image_digest

    records = [
        {"id": sample.id, "question": sample.question, "image_sha256": image_digest(sample.image)} | changes
        for sample in samples
    ]
    return ReferenceBank(None, None, np.full((len(samples), 1, 2), 0.5), unit(len(samples)), records)


def test_a_question_leaks_only_with_its_own_image():
    mine, others = make_samples(30, seed=1, hinted=1), make_samples(30, seed=2, hinted=1)
    moved = [dataclasses.replace(mine[0], id="other id", question=" what is  " + mine[0].question.split(" is ")[1])]
    result = find_leakage(leaky(mine), [*moved, *others])
    assert result.leaks[0] == "other id"
    shared = {sample.image.tobytes() for sample in mine}
    texts = {(sample.image.tobytes(), sample.question) for sample in mine}
    assert result.same_image == 1 + sum(sample.image.tobytes() in shared for sample in others)
    assert len(result.leaks) == 1 + sum((sample.image.tobytes(), sample.question) in texts for sample in others)
    assert result.same_question == 31  # three question texts in all


def test_without_images_leaks_are_matched_by_id_and_question():
    samples = make_samples(5, seed=1, hinted=1)
    result = find_leakage(leaky(samples, image_sha256=""), [samples[2], *make_samples(5, seed=3, hinted=1)])
    assert result.leaks == (samples[2].id,) and not result.images_known


def test_hashed_words_are_unit_vectors_with_similarity_by_shared_words():
    same, alike, other, empty = HashedBagOfWords().embed(
        ["How many red cubes?", "how many RED spheres?", "Is it raining today", "?!"]
    )
    assert np.linalg.norm([same, alike, other, empty], axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert same @ alike > 0.4 > abs(same @ other)
    np.testing.assert_array_equal(HashedBagOfWords().embed(["How many red cubes?"])[0], same)
