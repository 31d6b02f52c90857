"""Restriction to fragile samples: entropies by hand, and samples that keep the untouched model."""

import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.evaluation.collect_bank import collect_bank
from r2t2_jax.evaluation.encode import encode_questions
from r2t2_jax.evaluation.evaluator import evaluate
from r2t2_jax.evaluation.tuning_grid import grid_presets
from r2t2_jax.method.fragile import FragileOnly, answer_entropy, router_entropy
from r2t2_jax.methods import preset_of, strategy
from r2t2_jax.metrics import get_metric
from r2t2_jax.routing import RoutingSpec
from tests.toy import SMALL, run, toy_queries
from tests.toy_port import SPEC, make_samples, toy


def test_the_entropy_of_a_router_is_a_share_of_the_largest():
    certain, even, half = [1.0, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0.0]
    cases = (([certain, certain], 0), ([even, even], 1), ([certain, even], 0.5), ([half, half], np.log(2) / np.log(3)))
    for rows, entropy in cases:
        np.testing.assert_allclose(router_entropy(SPEC, jnp.asarray(rows)), entropy, atol=1e-6)
    np.testing.assert_allclose(router_entropy(SPEC, 2 * jnp.asarray([even, certain])), 0.5, atol=1e-6)
    groups = RoutingSpec(("a", "b", "c", "d", "e"), 1, ((0, 3), (1, 2, 4)))
    rows = jnp.asarray([[0.5, 1.0, 0.0, 0.5, 0.0]])
    np.testing.assert_allclose(router_entropy(groups, rows), 0.5, atol=1e-6)


def test_the_entropy_of_an_answer_is_the_mean_over_its_tokens():
    shares = jnp.asarray([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [1 / 3] * 3])
    mask = jnp.asarray([True, True, False])
    entropy = (np.log(2) + 1.5 * np.log(2)) / 2
    np.testing.assert_allclose(answer_entropy(jnp.log(shares), mask), entropy, rtol=1e-5)


@pytest.fixture(scope="module")
def case():
    port, metric = toy(), get_metric("exact_match")
    bank = collect_bank(port, make_samples(30, seed=0, hinted=1.0), metric)
    return port, bank, encode_questions(port, make_samples(8, seed=1, hinted=0.5)), metric


@pytest.mark.parametrize("name", ["ngd", "kernel_regression"])
def test_samples_up_to_the_threshold_keep_the_untouched_model(case, name):
    """All routers of the toy model are equally certain; the entropies of its answers differ."""
    port, bank, questions, metric = case
    router = np.asarray(questions.queries.routing)
    entropy = float(router_entropy(SPEC, questions.queries.routing[0]))
    quick = {"neighborhood.bandwidth": 0.5, "descent.steps": 2, "descent.learning_rate": 1.0}

    def with_threshold(measure, threshold):
        return strategy(name, preset_of(quick | {"fragile.measure": measure, "fragile.threshold": threshold}))

    methods = {"all": strategy(name, preset_of(quick)), "base": strategy("base")}
    methods |= {"none": with_threshold("router", entropy + 0.01), "every": with_threshold("router", entropy - 0.01)}
    votes, words = np.asarray(questions.queries.features["votes"]), []
    for weights, each in zip(router, votes, strict=True):
        logits = 8.0 * weights.mean(axis=0) @ each
        shares = np.exp(logits) / np.exp(logits).sum()
        words.append(-(shares * np.log(shares)).sum())
    distinct = np.unique(np.round(words, 3))
    threshold = float(distinct[:2].mean())
    methods |= {"answer": with_threshold("answer", threshold)}
    results = dict(zip(methods, evaluate(port, bank, questions, methods, metric), strict=True))
    np.testing.assert_array_equal(results["none"].weights, router)
    assert results["none"].predictions == results["base"].predictions
    np.testing.assert_array_equal(results["every"].weights, results["all"].weights)
    assert results["every"].predictions == results["all"].predictions
    assert results["every"].evaluations == results["all"].evaluations + 1
    assert results["answer"].evaluations == results["all"].evaluations + 3
    fragile = np.asarray(words) > threshold
    assert fragile.any()
    assert not fragile.all()
    np.testing.assert_array_equal(results["answer"].weights[fragile], results["all"].weights[fragile])
    np.testing.assert_array_equal(results["answer"].weights[~fragile], router[~fragile])
    assert not results["answer"].used_fallback.any()


def test_the_atlas_moves_the_samples_whose_router_is_uncertain():
    router = np.asarray(toy_queries()[0].routing, float)  # [B, L, E]
    entropies = -(router * np.log(router)).sum(axis=-1).mean(axis=-1) / np.log(router.shape[-1])
    threshold = float(np.sort(entropies)[1:3].mean())
    fragile = entropies > threshold
    assert fragile.sum() == 3
    whole, restricted = (
        run(strategy("atlas", SMALL.with_settings(settings)))
        for settings in ({}, {"fragile.measure": "router", "fragile.threshold": threshold})
    )
    moved = np.abs(np.asarray(whole.weights) - router).max(axis=(1, 2)) > 1e-3
    assert moved[fragile].any()
    assert moved[~fragile].any()
    np.testing.assert_array_equal(restricted.weights[fragile], whole.weights[fragile])
    np.testing.assert_allclose(restricted.weights[~fragile], router[~fragile], rtol=1e-6)
    np.testing.assert_array_equal(restricted.info["untouched"], ~fragile)
    np.testing.assert_array_equal(restricted.used_fallback, whole.used_fallback)


def test_wrong_settings_are_refused():
    with pytest.raises(R2T2Error, match=r"unknown fragile\.measure 'gate'; choose none, router, answer"):
        strategy("ngd", preset_of({"fragile.measure": "gate"}))
    with pytest.raises(R2T2Error, match=r"fragile\.threshold -1"):
        FragileOnly("router", -1)


def test_tuning_varies_the_threshold(tmp_path, capsys):
    base = preset_of({"fragile.measure": "router", "fragile.threshold": 0.1})
    presets = grid_presets(base, {"fragile.threshold": (0.1, 0.2), "neighborhood.k": (5,)}, "ngd")
    restrictions = [strategy("ngd", preset).fragile for preset in presets]
    assert restrictions == [FragileOnly("router", 0.1), FragileOnly("router", 0.2)]
    words = ["tune", "--model", "pocket:narrow", "--data", "pocket", "--out", str(tmp_path / "tune")]
    for options in (["--fragile", "router"], ["--fragile-threshold", "0.5"]):
        assert main([*words, *options]) == 2
        assert "--fragile router or answer and --fragile-threshold go together" in capsys.readouterr().err
