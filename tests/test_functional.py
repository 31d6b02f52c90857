"""Re-routing a loss function: better routing, and every invalid array refused by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import r2t2_jax
from r2t2_jax.bank import ReferenceBank
from r2t2_jax.errors import R2T2Error, R2T2Warning
from r2t2_jax.functional.auto_preset import PresetChoice
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import _reroute_on_cpu
from r2t2_jax.methods import strategy
from r2t2_jax.routing import RoutingSpec
from tests.toy import MODEL, toy_bank, toy_params, toy_queries
from tests.toy_port import toy as toy_port

RNG = np.random.default_rng(0)
N, B, E, D = 60, 10, 3, 4


def answer_loss(params, features, weights, answer):
    """Squared error of a mixture of three linear experts [E, D]; weights [1, E]."""
    outputs = params @ features  # [E]
    return jnp.square(weights[0] @ outputs - answer)


def samples(count):
    """Each sample's topic names the expert that is right about it; the router knows nothing."""
    topic = RNG.integers(0, E, count)
    features = RNG.normal(size=(count, D)).astype(np.float32)
    answers = (features @ PARAMS.T)[np.arange(count), topic]
    embeddings = np.eye(E, 6)[topic] + 0.05 * RNG.normal(size=(count, 6))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return topic, features, answers, np.full((count, 1, E), 1 / E, np.float32), embeddings.astype(np.float32)


PARAMS = RNG.normal(size=(E, D)).astype(np.float32)
_, *arrays = samples(N)
BANK = ReferenceBank(*arrays)
TOPIC, FEATURES, ANSWERS, ROUTING, EMBEDDINGS = samples(B)
FAST_SETTINGS = {"space.kind": "simplex", "descent.learning_rate": 0.3, "descent.steps": 20}
FAST = strategy("ngd", Preset.from_mapping(FAST_SETTINGS))


def errors(weights):
    return np.asarray(jax.jit(jax.vmap(answer_loss, in_axes=(None, 0, 0, 0)))(PARAMS, FEATURES, weights, ANSWERS))


def test_an_l2_loss_and_arrays_are_enough():
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy=FAST)
    assert result.weights.shape == (B, 1, E)
    assert errors(result.weights).mean() < 0.3 * errors(ROUTING).mean()
    np.testing.assert_array_equal(result.weights[:, 0].argmax(axis=1), TOPIC)


def test_the_paper_has_a_preset():
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset="paper")
    named = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy=strategy("ngd"))
    np.testing.assert_array_equal(result.path, named.path)
    assert result.evaluations == 102


def test_the_default_chooses_a_preset_on_left_out_references_and_names_it(capsys):
    bank = dataclasses.replace(BANK)
    arrays = (answer_loss, PARAMS, bank, FEATURES, ROUTING, EMBEDDINGS)
    result = r2t2_jax.reroute(*arrays)
    assert result.preset in ("simplex", "logit")
    line = capsys.readouterr().err
    assert f"r2t2: preset {result.preset}, chosen for ngd on 15 left-out references: mean loss " in line
    assert "paper 0." in line or "paper 1." in line
    assert "the router's own weights" in line
    paper = r2t2_jax.reroute(*arrays, preset="paper")
    assert paper.preset == ""
    assert errors(result.weights).mean() < 0.3 * errors(paper.weights).mean()
    again = r2t2_jax.reroute(*arrays)
    np.testing.assert_array_equal(again.weights, result.weights)
    assert "chosen" not in capsys.readouterr().err  # once for a bank, a model and a strategy
    named = r2t2_jax.reroute(*arrays, preset=again.preset)
    assert named.path.shape == again.path.shape


def test_wrong_references_take_part_in_the_choice_and_are_no_neighbors():
    correct = np.arange(N) % 2 == 0
    mixed = dataclasses.replace(BANK, correct=correct)
    result = r2t2_jax.reroute(answer_loss, PARAMS, mixed, FEATURES, ROUTING, EMBEDDINGS, preset="simplex")
    only = r2t2_jax.reroute(answer_loss, PARAMS, BANK.take(correct), FEATURES, ROUTING, EMBEDDINGS, preset="simplex")
    np.testing.assert_array_equal(result.weights, only.weights)


def test_a_small_bank_keeps_the_papers_preset_with_fewer_neighbors():
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK.take(np.arange(3)), FEATURES, ROUTING, EMBEDDINGS)
    assert (result.preset, result.evaluations) == ("paper", 62)  # 10 steps on 3 neighbors


@pytest.mark.parametrize("preset", [FAST_SETTINGS, Preset.from_mapping(FAST_SETTINGS)], ids=["settings", "preset"])
def test_settings_are_taken_by_value_too(preset):
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset=preset)
    expected = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy=FAST)
    np.testing.assert_array_equal(result.path, expected.path)


def test_another_learning_rate_compiles_nothing():
    def run(rate):
        settings = {**FAST_SETTINGS, "descent.learning_rate": rate, "neighborhood.bandwidth": 1.0 + rate}
        return r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset=settings).weights

    first = run(0.3)
    size = _reroute_on_cpu._cache_size()
    assert not np.array_equal(run(0.2), first)
    assert _reroute_on_cpu._cache_size() == size


def test_an_atlas_is_built_and_read_from_arrays():
    bank = r2t2_jax.build_atlas(answer_loss, PARAMS, BANK, points=8)
    assert bank.atlas.losses.shape == (N, 8)
    arrays = (answer_loss, PARAMS, bank, FEATURES, ROUTING, EMBEDDINGS)
    result = r2t2_jax.reroute(*arrays, strategy="atlas", preset="simplex")
    assert result.evaluations == 2
    np.testing.assert_array_equal(result.weights[:, 0].argmax(axis=1), TOPIC)
    fixed = r2t2_jax.reroute(*arrays, strategy="best_fixed")
    best = bank.atlas.points[bank.atlas.mean().argmin()]
    np.testing.assert_allclose(fixed.weights, np.broadcast_to(best, fixed.weights.shape), atol=1e-6)
    with pytest.raises(R2T2Error, match=r"atlas reads the bank's loss atlas .* bank = r2t2_jax.build_atlas\("):
        r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, strategy="atlas", preset="paper")


def test_settings_are_tuned_on_labeled_samples():
    grid = {"space.kind": ("simplex",), "descent.optimizer": ("adam",), "descent.learning_rate": (0.1, 0.3)}
    tuned = r2t2_jax.tune(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, ANSWERS, values=grid)
    assert len(tuned.table) == 5  # and paper, simplex, logit
    assert [row["n"] for row in tuned.table] == [B] * 5
    losses = [row["loss"] for row in tuned.table]
    assert losses == sorted(losses) and losses[0] == tuned.loss.gain < 0.3 * tuned.paper
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset=tuned.preset)
    np.testing.assert_allclose(errors(result.weights).mean(), tuned.loss.gain, rtol=1e-4)
    assert str(tuned).startswith("ngd: preset logit, space.kind logit") and "the paper's settings 0.499" in str(tuned)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"strategy": "kernel_regression"},
            "settings of 'kernel_regression' cannot be tuned; choose one of ngd",
        ),
        ({"values": {"descent.rate": (1,)}}, "a preset has no setting 'descent.rate'"),
        (
            {"values": {"descent.learning_rate": 0.1}},
            "the values of 'descent.learning_rate' are 0.1; give values to try",
        ),
        ({"values": ("simplex",)}, "values is of type tuple; give values to try by path"),
        ({"budget": 0}, "budget is 0; it must be a whole number of at least 1"),
        ({"answers": ANSWERS[:4]}, "answers has shape"),
        ({"strategy": "atlas"}, "build_atlas"),
    ],
)
def test_bad_searches_are_refused(changes, cause):
    arguments = {"features": FEATURES, "routing": ROUTING, "embeddings": EMBEDDINGS, "answers": ANSWERS}
    with pytest.raises(R2T2Error, match=cause):
        r2t2_jax.tune(answer_loss, PARAMS, BANK, **{**arguments, **changes})


def ignoring(params, features, weights, answer):
    """A loss that reads the weights and does not depend on them."""
    return jnp.square((params @ features)[0] - answer) + 0.0 * weights.sum()


def test_a_loss_that_does_not_depend_on_the_weights_is_refused():
    samples = (np.concatenate([FEATURES + 1, FEATURES - 1]), *(np.concatenate([x, x]) for x in (ROUTING, EMBEDDINGS)))
    answers = np.concatenate([ANSWERS, ANSWERS])
    for run in (
        lambda: r2t2_jax.reroute(ignoring, PARAMS, BANK, *samples),
        lambda: r2t2_jax.diagnose(ignoring, PARAMS, BANK, *samples, answers),
        lambda: r2t2_jax.tune(ignoring, PARAMS, BANK, *samples, answers),
    ):
        with pytest.raises(R2T2Error, match="answer_loss does not depend on the routing weights"):
            run()


def test_a_routed_model_is_accepted():
    queries, embeddings = toy_queries()
    result = r2t2_jax.reroute(
        MODEL, toy_params(), toy_bank(), queries.features, queries.routing, embeddings, strategy="kernel_regression"
    )
    np.testing.assert_allclose(result.weights.sum(axis=-1), 1, atol=1e-5)


def test_the_support_is_kept():
    support = np.array([True, True, False])[None, None]
    routing = np.where(support, ROUTING, 0)
    result = r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, routing, EMBEDDINGS, strategy=FAST, support=support)
    assert not result.weights[..., 2].any()


def broken(array, row=3):
    array = np.array(array)
    array[row] = np.nan
    return array


def shaped_loss(params, features, weights, answer):
    return weights[0]


def numpy_loss(params, features, weights, answer):
    return np.square(np.asarray(weights)[0] @ (params @ features) - answer)


@dataclasses.dataclass
class UnhashableLoss:
    """Compared by value, hence without a hash."""

    def __call__(self, *arguments):
        return answer_loss(*arguments)


def test_a_support_of_zeros_and_ones_is_one_of_booleans():
    mask = np.broadcast_to(np.array([1, 1, 1]), ROUTING.shape)
    number, boolean = (
        r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, support=support, preset="simplex")
        for support in (mask, mask.astype(bool))
    )
    np.testing.assert_array_equal(number.weights, boolean.weights)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"features": broken(FEATURES)}, "features holds NaN or infinity, first in row 3"),
        ({"embeddings": broken(EMBEDDINGS)}, "query embeddings holds NaN"),
        ({"embeddings": 3 * EMBEDDINGS}, "unit vectors"),
        ({"embeddings": EMBEDDINGS[:4]}, "leading axis must count the 10 samples"),
        ({"routing": broken(ROUTING)}, "routing holds NaN"),
        ({"routing": ROUTING[..., :2]}, r"needs \[rows, 1 layers, 3 experts\]"),
        ({"routing": np.ones((B, 1, E), int)}, "convert routing weights to float32"),
        ({"support": np.array([True, True, False])[None, None]}, "gives weight to 'expert 2' in layer 0 of row 0"),
        ({"support": np.ones((B, 2), bool)}, r"support of shape \(10, 2\) does not fit routing"),
        ({"features": FEATURES[:7]}, "leading axis must count the 10 samples"),
        ({"strategy": "oracle"}, "reads the test samples' answers"),
        ({"strategy": "telepathy"}, "unknown strategy"),
        (
            {"strategy": strategy("ngd", Preset.from_mapping({"neighborhood.k": 61}))},
            "k=61 neighbors from a bank of 60",
        ),
        ({"model": shaped_loss}, r"answer_loss returns float32\[3\]; it must return one number"),
        ({"model": jax.vmap(answer_loss, in_axes=(None, 0, 0, 0))}, "fails for one sample, with features float32"),
        ({"model": numpy_loss}, r"TracerArrayConversionError.*: use jax.numpy"),
        ({"model": lambda p, f, w, a: np.sum(np.asarray(w))}, "NumPy cannot compute with traced arrays: use jax.numpy"),
        ({"model": lambda p, f, w, a: float(w.sum())}, r"no value is known while .* no float\(\) or .item\(\)"),
        ({"model": lambda p, f, w, a: w.sum() if w[0, 0] > 0 else w.mean()}, "use jnp.where in place of `if`"),
        (
            {"model": lambda p, f, w, a: jnp.abs(a), "preset": "paper"},
            "never reads its argument `weights`, and ngd searches by it",
        ),
        (
            {"bank": {"features": FEATURES}},
            r"bank is of type dict; give a ReferenceBank \(",
        ),
        ({"params": {"w": PARAMS, "name": "moe"}}, r"params\['name'\] is of type str; params holds arrays"),
        ({"routing": ROUTING.tolist()}, "routing is of type list; give a NumPy or JAX array"),
        (
            {"routing": ROUTING[:, 0]},
            r"For a model with one routed layer, .*: routing\[:, None\]",
        ),
        ({"routing": ROUTING[:, :, None]}, "For gates per token, average them over the tokens"),
        ({"embeddings": EMBEDDINGS.tolist()}, "query embeddings is of type list"),
        ({"features": FEATURES.tolist()}, r"features\[0\]\[0\] is of type float; give a NumPy or JAX array"),
        ({"features": FEATURES.astype(str)}, "features holds <U.*; give an array of numbers"),
        ({"model": 3}, "the model is of type int; give a function"),
        ({"model": UnhashableLoss()}, "the model is not hashable .* give a function or a frozen dataclass"),
        ({"model": toy_port()}, r"toy is a port: give port.model and port.params, or call r2t2_jax.answer"),
        ({"strategy": FAST, "preset": "paper"}, "a Strategy has its settings"),
        ({"preset": "spicy"}, "unknown preset 'spicy'; choose one of paper, c3po, simplex, logit, or a file"),
        ({"preset": {"learning_rate": 1.0}}, "write 'learning_rate' as 'descent.learning_rate'"),
        ({"preset": 3}, "a preset is a name, a file, a Preset or settings in a dictionary, not 3"),
        (
            {"routing": 9 * ROUTING - 4},
            r"routing has negative weights in row 0, layer 0: \[-1, -1, -1\].* softmax",
        ),
        ({"routing": 9 * ROUTING}, r"routing sums to 9 in row 0, layer 0: \[3, 3, 3\]\. If these are logits"),
        (
            {"routing": np.log(ROUTING)},
            r"routing has negative weights .* give their softmax\. If experts do not compete",
        ),
        (
            {"bank": dataclasses.replace(BANK, routing=4 * BANK.routing)},
            "reference routing sums to 4 in row 0, layer 0",
        ),
        ({"params": PARAMS * np.nan, "preset": "paper"}, "NaN or infinite for all 10 samples, first row 0"),
        ({"params": PARAMS * np.nan}, "answer_loss is NaN or infinite at all routing weights of the first 4 samples"),
        (
            {"features": FEATURES[:, :3]},
            r"for one test sample, with features float32\[3\].* have features float32\[4\]",
        ),
        ({"features": {"x": FEATURES}}, r"fails for one test sample, with features {x: float32\[4\]}"),
        ({"features": FEATURES[:7]}, "its leading axis must count the 10 samples of routing"),
        ({"strategy": ["ngd", "atlas"]}, r"a strategy is one name, such as 'base', not \['ngd', 'atlas'\]"),
        ({"mesh": "data=2"}, r"mesh is of type str; give jax.make_mesh\("),
        ({"spec": ("a", "b", "c")}, r"spec is of type tuple; give RoutingSpec\(experts, layers\)"),
        (
            {"model": lambda p, f, w, a: (w.sum(), {})},
            r"answer_loss returns {0: float32\[\]}; it must return one number",
        ),
        ({"model": lambda p, f, w, a: None}, "answer_loss returns nothing; it must return one number"),
        ({"model": lambda p, f, w, a: "0.5"}, "answer_loss returns str; it must return one number"),
        ({"model": lambda p, f, w, a: w.sum() + 0j}, r"answer_loss returns complex64\[\]; it must return one number"),
        (
            {"model": lambda p, f, w, a: w[w > 0].sum()},
            r"not known while a function is traced: use jnp.where\(mask, x, 0\)",
        ),
        (
            {
                "model": lambda p, f, w, a: jax.lax.while_loop(lambda v: v < 9, lambda v: 2 * v, w[0, 0]),
                "preset": "paper",
            },
            "answer_loss cannot be differentiated .*lax.scan, or use the atlas, which needs no gradient",
        ),
    ],
)
def test_bad_input_is_refused(changes, cause):
    arguments = {"model": answer_loss, "params": PARAMS, "bank": BANK, "features": FEATURES, "routing": ROUTING}
    with pytest.raises(R2T2Error, match=cause):
        r2t2_jax.reroute(**{**arguments, "embeddings": EMBEDDINGS, **changes})


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"routing": None}, "reference routing is of type NoneType"),
        (
            {"routing": BANK.routing[:, 0]},
            "For a model with one routed layer",
        ),
        ({"routing": BANK.routing[:, :, None]}, "For gates per token, average them over the tokens"),
        (
            {"routing": BANK.routing.swapaxes(0, 1)},
            r"the 1 samples of routing \[1, 60, 3\], whose axes are samples,",
        ),
        ({"answers": BANK.answers.tolist()}, r"reference answers\[0\] is of type float"),
        ({"correct": [True] * 60}, "flags of correct references is of type list"),
        ({"correct": np.ones(60)}, "flags of correct references hold float64; give booleans"),
        ({"correct": np.ones(60, int)}, "flags of correct references hold int64; give booleans"),
    ],
)
def test_arrays_that_make_no_bank_are_refused(changes, cause):
    with pytest.raises(R2T2Error, match=cause):
        dataclasses.replace(BANK, **changes)


def test_parameters_in_numpy_and_whole_numbers_as_embeddings_give_the_same_weights():
    def indexed_loss(params, features, weights, answer):  # NumPy parameters, indexed by a traced array
        return answer_loss(params[jnp.arange(len(params))], features, weights, answer)

    eye = np.eye(3, dtype=int)
    bank = dataclasses.replace(BANK, embeddings=eye[np.arange(60) % 3])
    results = [
        r2t2_jax.reroute(
            indexed_loss,
            convert(PARAMS),
            dataclasses.replace(bank, embeddings=bank.embeddings.astype(dtype)),
            FEATURES,
            ROUTING,
            eye[np.arange(B) % 3].astype(dtype),
            preset={"descent": {"steps": 1}},
        )
        for convert, dtype in ((np.asarray, int), (jnp.asarray, np.float32))
    ]
    np.testing.assert_array_equal(results[0].weights, results[1].weights)


@pytest.mark.parametrize("shares", [0.5 * ROUTING, 0 * ROUTING, ROUTING.astype(jnp.bfloat16), ROUTING + 1e-3])
def test_shares_that_sum_to_less_than_one_or_are_rounded_are_accepted(shares):
    r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, shares, EMBEDDINGS, strategy="uniform", preset="paper")


def test_gates_that_do_not_compete_have_a_group_each():
    spec = RoutingSpec(("a", "b", "c"), 1, groups=((0,), (1,), (2,)))
    bank = dataclasses.replace(BANK, routing=3 * BANK.routing - 1)
    arrays = (answer_loss, PARAMS, bank, FEATURES, 5 * ROUTING - 2, EMBEDDINGS)
    result = r2t2_jax.reroute(*arrays, preset="paper", spec=spec)
    assert errors(result.weights).mean() < errors(5 * ROUTING - 2).mean()


def test_nan_for_some_samples_is_a_warning():
    def loss(params, features, weights, answer):
        return jnp.where(answer > 0, jnp.nan, 1.0) * answer_loss(params, features, weights, answer)

    settings = {"neighborhood": {"k": 1}, "descent": {"steps": 1}}
    with pytest.warns(
        R2T2Warning, match=r"ngd gives .* NaN or infinite for \d of 10 samples, first row \d: answer_loss"
    ):
        result = r2t2_jax.reroute(loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset=settings)
    assert np.isfinite(result.weights).any()


def test_a_loss_that_stores_what_it_is_given_is_named():
    stored = []

    def loss(params, features, weights, answer):
        stored.append(weights)
        return answer_loss(params, features, stored[0], answer)

    with pytest.raises(R2T2Error, match="it keeps a traced array in a list, an attribute or a global variable"):
        r2t2_jax.reroute(loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, preset="paper")


class Tensor:
    """A stand-in for a tensor of PyTorch, which is not installed here."""


Tensor.__module__ = "torch"


def test_tensors_are_refused_with_their_conversion():
    for changes in ({"params": {"w": Tensor()}}, {"routing": Tensor()}, {"features": Tensor()}):
        arguments = {"params": PARAMS, "features": FEATURES, "routing": ROUTING, "embeddings": EMBEDDINGS} | changes
        with pytest.raises(R2T2Error, match=r"is of type torch\.Tensor; .*tensor\.detach\(\)\.cpu\(\)\.numpy\(\)"):
            r2t2_jax.reroute(answer_loss, bank=BANK, **arguments)


def test_a_strategy_without_a_loss_takes_any_function():
    arrays = (PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS)
    r2t2_jax.reroute(lambda p, f, w, a: 0.0 * a, *arrays, strategy="kernel_regression", preset="paper")


def test_presets_that_all_leave_the_loss_as_it_is_are_named():
    equal = dict.fromkeys(("paper", "simplex", "logit", "router"), 0.5)
    text = "No preset changes the loss: if its gradient is zero, as of a 0/1 loss, only the atlas"
    assert text in str(PresetChoice("ngd", "paper", Preset(), equal, 15))
    assert text not in str(PresetChoice("ngd", "paper", Preset(), equal | {"logit": 0.6}, 15))


@pytest.mark.parametrize("name", ["ngd", "kernel_regression"])
def test_half_precision_embeddings_of_repeated_questions_give_the_weights_of_float32(name):
    dtype = jnp.float16
    kind = np.eye(E, dtype=np.float32)  # three questions, asked again and again
    bank = ReferenceBank(*arrays[:3], kind[np.arange(N) % E])
    half = ReferenceBank(*arrays[:3], jnp.asarray(bank.embeddings, dtype))
    settings = {"space.kind": "simplex", "descent.optimizer": "adam", "descent.learning_rate": 0.3}
    method, queries = strategy(name, Preset.from_mapping(settings)), kind[np.arange(B) % E]
    expected = r2t2_jax.reroute(answer_loss, PARAMS, bank, FEATURES, ROUTING, queries, strategy=method)
    result = r2t2_jax.reroute(
        answer_loss, PARAMS, half, FEATURES, ROUTING, jnp.asarray(queries, dtype), strategy=method
    )
    assert np.isfinite(expected.weights).all()
    np.testing.assert_array_equal(result.weights, expected.weights)


def test_test_samples_that_are_references_are_refused():
    mixed = [np.concatenate([new[:3], old[5:7]]) for new, old in ((FEATURES, arrays[0]), (EMBEDDINGS, arrays[3]))]
    with pytest.raises(R2T2Error, match="2 of 5 test samples are also references in the bank, first row 3"):
        r2t2_jax.reroute(answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], mixed[1])
    allowed = r2t2_jax.reroute(
        answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], mixed[1], strategy="kernel_regression", allow_leakage=True
    )
    assert allowed.weights.shape == (5, 1, E)
    other = np.concatenate([EMBEDDINGS[:3], EMBEDDINGS[:2]])  # the same features with another question
    r2t2_jax.reroute(answer_loss, PARAMS, BANK, mixed[0], ROUTING[:5], other, strategy="kernel_regression")


@pytest.mark.parametrize("seed", ["x", 1.5, None, -1, True, 2**32])
def test_a_seed_is_a_whole_number(seed):
    for call in (
        lambda: r2t2_jax.reroute(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, seed=seed),
        lambda: r2t2_jax.build_atlas(answer_loss, PARAMS, BANK, seed=seed),
        lambda: r2t2_jax.tune(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, ANSWERS, seed=seed),
        lambda: r2t2_jax.diagnose(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, ANSWERS, seed=seed),
    ):
        with pytest.raises(R2T2Error, match=r"seed is .*; it must be a whole number from 0 to 4,294,967,295"):
            call()


def test_counts_are_whole_numbers_and_losses_need_labels():
    with pytest.raises(R2T2Error, match="points is 'x'; it must be a whole number of at least 1"):
        r2t2_jax.build_atlas(answer_loss, PARAMS, BANK, points="x")
    for function in (r2t2_jax.tune, r2t2_jax.diagnose):
        with pytest.raises(R2T2Error, match="answers is None: losses are compared, so every sample needs its label"):
            function(answer_loss, PARAMS, BANK, FEATURES, ROUTING, EMBEDDINGS, None)


def test_a_small_bank_gets_the_papers_preset_and_says_so(capsys):
    few = ReferenceBank(*(array[:3] for array in arrays))
    result = r2t2_jax.reroute(answer_loss, PARAMS, few, FEATURES, ROUTING, EMBEDDINGS, strategy="kernel_regression")
    assert result.preset == "paper"
    message = "preset paper for kernel_regression: not compared with others, too few references"
    assert capsys.readouterr().err == f"r2t2: {message}\n"
