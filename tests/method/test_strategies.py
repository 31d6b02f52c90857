"""The list of strategies and their presets."""

import json

import jax
import numpy as np
import pytest

from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.kernels import Gaussian, Linear, Matern, Polynomial
from r2t2_jax.method.presets import PAPER, Preset
from r2t2_jax.method.search.gradient_descent import Cosine, Fixed, GradientDescent, StepDecay
from r2t2_jax.methods import STRATEGIES, find_preset, strategy
from r2t2_jax.retrieval.neighbors import EpsilonBall, NearestNeighbors
from r2t2_jax.routing import UpdateSpace
from tests.toy import SMALL, run

NAMES = [
    "base",
    "router_mean",
    "uniform",
    "random_neighbors",
    "shuffled_references",
    "mode_finding",
    "kernel_regression",
    "kernel_regression_alpha",
    "ngd",
    "oracle",
    "oracle_permuted",
    "base_permuted",
    "best_of_n",
    "task_routing",
    "atlas",
    "atlas_argmin",
    "atlas_taylor",
    "atlas_mlp",
    "best_fixed",
    "gate_finetuned",
    "tent",
    "eata",
    "sar",
    "memo",
    "tpt",
    "deyo",
    "cotta",
    "rewiring",
    "cma_es",
    "active_experts",
    "t3",
    "manifold_pull",
    "knn_moe",
    "expert_boost",
    "expert_mask",
]


def test_the_names_of_all_strategies():
    assert sorted(STRATEGIES) == sorted(NAMES)
    assert [strategy(name).name for name in NAMES] == NAMES


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_sample_does_not_depend_on_earlier_samples(name):
    """Another order, other company, and once more: the same bits. `test_rerouting` has other batch sizes."""
    one = strategy(name, SMALL.with_settings({"descent.steps": 4}))
    first = [np.asarray(leaf) for leaf in jax.tree.leaves(run(one))]
    for rows in ([4, 2, 0, 3, 1], [3, 3, 3, 1, 3], [0, 1, 2, 3, 4]):
        for result, expected in zip(jax.tree.leaves(run(one, rows)), first, strict=True):
            np.testing.assert_array_equal(result, expected[np.array(rows)])


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_random_draws_depend_on_the_seed(name):
    one = strategy(name, SMALL.with_settings({"descent.steps": 4}))
    first, other = run(one).weights, run(one, seed=1).weights
    assert (np.asarray(first) != np.asarray(other)).any() == (name in ("best_of_n", "cma_es", "cotta"))


def test_the_papers_settings():
    ngd = strategy("ngd")
    assert ngd.selector == NearestNeighbors(5)
    assert ngd.kernel == Gaussian(None)
    assert ngd.search == GradientDescent(Cosine(1e-2, 1e-5), "sgd", 10)
    assert ngd.space == UpdateSpace("free", tied=False)


def test_the_controls_differ_from_ngd_in_their_neighbors_only():
    ngd = strategy("ngd")
    for name in ("random_neighbors", "shuffled_references"):
        null = strategy(name)
        assert (null.kernel, null.objective, null.search, null.space) == (
            ngd.kernel,
            ngd.objective,
            ngd.search,
            ngd.space,
        )
        assert null.selector != ngd.selector
        assert null.selector.k == ngd.selector.k


def test_a_preset_is_data():
    settings = {
        "space.kind": "simplex",
        "descent.optimizer": "adam",
        "descent.learning_rate": 0.3,
        "neighborhood.epsilon": 0.8,
        "descent.schedule": "fixed",
    }
    preset = find_preset("pocket", {"pocket": json.loads(json.dumps(settings))})
    assert Preset.from_mapping(json.loads(json.dumps(preset.to_mapping()))) == preset
    ngd = strategy("ngd", preset)
    assert ngd.selector == EpsilonBall(0.8)
    assert ngd.search == GradientDescent(Fixed(0.3), "adam", 10)
    assert ngd.space.kind == "simplex"
    assert find_preset("paper", {"pocket": settings}) == PAPER


@pytest.mark.parametrize(
    ("settings", "part", "expected"),
    [
        (
            {"neighborhood.kernel": "matern", "neighborhood.nu": 2.5, "neighborhood.bandwidth": 0.4},
            "kernel",
            Matern(2.5, 0.4),
        ),
        (
            {"neighborhood.kernel": "polynomial", "neighborhood.degree": 3, "neighborhood.offset": 0.0},
            "kernel",
            Polynomial(3, 0.0),
        ),
        ({"neighborhood.kernel": "linear"}, "kernel", Linear()),
        (
            {"descent.schedule": "step", "descent.decay_factor": 0.5, "descent.decay_every": 2},
            "search",
            GradientDescent(StepDecay(1e-2, 0.5, 2)),
        ),
        ({"space.tied": True}, "space", UpdateSpace("free", True)),
    ],
)
def test_every_setting_reaches_its_part(settings, part, expected):
    assert getattr(strategy("ngd", Preset.from_mapping(settings)), part) == expected


def test_bandwidths_of_question_space_and_routing_space_are_separate():
    preset = Preset.from_mapping({"neighborhood.bandwidth": 0.3, "mode.bandwidth": 0.1, "mode.k": 7})
    search = strategy("mode_finding", preset).search
    assert (search.kernel, search.k) == (Gaussian(0.1), 7)
    assert strategy("kernel_regression", preset).kernel == Gaussian(0.3)


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda: strategy("telepathy"), "unknown strategy 'telepathy'; choose one of base, router_mean"),
        (lambda: find_preset("pocket"), "unknown preset 'pocket'; choose one of paper"),
        (lambda: Preset.from_mapping({"descent.stepz": 3}), r"unknown settings \['descent.stepz'\]"),
        (lambda: strategy("ngd", Preset.from_mapping({"neighborhood.kernel": "cosine"})), "unknown kernel 'cosine'"),
        (lambda: strategy("ngd", Preset.from_mapping({"descent.schedule": "linear"})), "unknown schedule 'linear'"),
        (lambda: strategy("ngd", Preset.from_mapping({"space.kind": "sphere"})), "unknown update space 'sphere'"),
        (lambda: strategy("ngd", Preset.from_mapping({"descent.optimizer": "lion"})), "unknown optimizer 'lion'"),
        (lambda: strategy("ngd", Preset.from_mapping({"neighborhood.bandwidth": -1.0})), r"bandwidth -1\.0"),
        (lambda: strategy("ngd", Preset.from_mapping({"neighborhood.k": 0})), "k=0"),
        (lambda: strategy("ngd", Preset.from_mapping({"neighborhood.epsilon": -0.5})), r"epsilon -0\.5"),
        (lambda: strategy("best_of_n", Preset.from_mapping({"best_of_n.candidates": 0})), "0 candidates"),
        (
            lambda: strategy("atlas", Preset.from_mapping({"atlas.loss": "hinge"})),
            "unknown atlas loss 'hinge'; choose bounded or",
        ),
        (
            lambda: strategy("atlas_taylor", Preset.from_mapping({"atlas.loss": "cross_entropy"})),
            "set atlas.loss to bounded",
        ),
    ],
)
def test_bad_settings_are_refused(make, cause):
    with pytest.raises(R2T2Error, match=cause):
        make()
