"""Steered gates against hand-worked cases, and recordings that show the steering they were made with."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.routed_experts import RoutedExperts, RoutedRows
from r2t2_jax import answer
from r2t2_jax.cli.main import main
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routing import TokenSteering
from r2t2_jax.steering.files import parse_steering
from r2t2_jax.steering.steer import Steer, steered_model
from r2t2_jax.steering.tables import MASKED, bind
from tests.routes.test_recording import language_model
from tests.toy_port import make_samples, toy

TEXT, IMAGE, LAST, ANSWER, NONE = 0, 1, 2, 3, -1
EXPERTS = 4
LOGITS = jnp.log(jnp.asarray([[8.0, 4.0, 2.0, 1.0]] * 3))  # shares 8/15, 4/15, 2/15, 1/15


def steering(*rules):
    return parse_steering({"steering": 1, "rules": list(rules)})


@pytest.fixture(scope="module")
def gate():
    """A layer with four experts, two of which serve a token, whose logits are its input."""
    layer = RoutedExperts(EXPERTS, 2, EXPERTS, 2, normalize=True, rngs=nnx.Rngs(0), dtype="float32")
    layer.gate.kernel[...] = jnp.eye(EXPERTS)
    return layer


def imposed(**leaves):
    """Steering of one layer by class and expert, from that of text tokens; other classes are free."""
    shape = (len((TEXT, IMAGE, LAST, ANSWER)), EXPERTS)
    free = {name: np.zeros(shape, np.float32) for name in ("shift", "scaled")}
    free |= {"selected": np.zeros(shape, bool), "weights": np.full(shape, np.nan, np.float32)}
    for name, row in leaves.items():
        free[name][TEXT] = row
    return TokenSteering(**{name: jnp.asarray(leaf) for name, leaf in free.items()})


def mixed(gate, values, rows, mode="steer"):
    routed = RoutedRows(jax.tree.map(lambda leaf: leaf[None], values), jnp.asarray(rows), mode, (0,), len(rows))
    return gate.mix(LOGITS[: len(rows)], values, routed)


@pytest.mark.parametrize(
    ("leaves", "ids", "weights"),
    [
        ({}, [0, 1], [8 / 12, 4 / 12]),
        ({"shift": [MASKED, 0, 0, 0]}, [1, 2], [4 / 6, 2 / 6]),  # mask the first expert
        ({"shift": [0, 0, 0, np.log(64)]}, [3, 0], [64 / 72, 8 / 72]),  # a boost of log 64
        ({"selected": [0, 0, 0, 1]}, [0, 3], [8 / 9, 1 / 9]),  # the gate chooses the other
        ({"selected": [0, 0, 1, 1]}, [2, 3], [2 / 3, 1 / 3]),
        ({"weights": [0, 0.25, 0, 1.5]}, [3, 1], [1.5, 0.25]),  # as given, also if they do not sum to one
        ({"weights": [0, 0, 0, 0.5]}, [3, 0], [0.5, 0.0]),
    ],
)
def test_a_token_follows_its_class_and_others_are_free(gate, leaves, ids, weights):
    _, choice, dense = mixed(gate, imposed(**leaves), [TEXT, IMAGE, NONE])
    assert choice.ids[0].tolist() == ids
    np.testing.assert_allclose(choice.weights[0], weights, rtol=1e-5)
    _, own, _ = gate.mix(LOGITS, None, None)
    for name in ("ids", "weights", "logits"):
        np.testing.assert_array_equal(getattr(choice, name)[1:], getattr(own, name)[1:])
    np.testing.assert_array_equal(choice.logits, own.logits)
    np.testing.assert_allclose(dense.sum(axis=-1)[0], sum(weights), rtol=1e-5)


def test_a_boost_in_standard_deviations_scales_with_the_logits_of_the_token(gate):
    _, choice, _ = mixed(gate, imposed(scaled=[0, 0, 0, 2.0]), [TEXT, IMAGE, NONE])
    spread = float(np.std(np.log([8.0, 4.0, 2.0, 1.0])))  # log 2 times sqrt(1.25)
    assert spread == pytest.approx(np.log(2) * np.sqrt(1.25))
    boosted = np.exp(2 * spread)  # 4.7, above 4 and below 8
    assert choice.ids[0].tolist() == [0, 3]
    np.testing.assert_allclose(choice.weights[0], [8 / (8 + boosted), boosted / (8 + boosted)], rtol=1e-5)


def test_steering_equals_the_modes_shift_select_and_replace(gate):
    everywhere = jnp.ones(3, bool)
    weights = jnp.asarray([0.0, 0.7, 0.0, 0.3])
    shift = jnp.asarray([MASKED, 0.0, 0.5, 0.0])
    cases = (
        ("shift", shift, {"shift": shift}),
        ("select", jnp.asarray([3, 1]), {"selected": [0, 1, 0, 1]}),
        ("replace", weights, {"weights": weights}),
    )
    for mode, values, leaves in cases:
        routed = RoutedRows(values[None], everywhere, mode, (0,), 3)
        wanted, _, dense = gate.mix(LOGITS, values, routed)
        steered, _, steered_dense = mixed(gate, imposed(**leaves), [TEXT] * 3)
        np.testing.assert_allclose(steered_dense, dense, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(steered, wanted, rtol=1e-4, atol=1e-7)


RULES = (
    {"layers": [0], "tokens": "prompt", "mask": [0, 1, 2]},
    {"layers": [1], "tokens": "answer", "select": [5]},
    {"layers": [1], "tokens": "last", "weigh": {"4": 0.75, "2": 0.25}},
    {"layers": [0], "tokens": "answer", "boost": {"expert 3": 1.0}, "lambda": 1e4},
)


@pytest.fixture(scope="module")
def port():
    return language_model()


def test_a_recording_under_a_steering_shows_what_was_asked(port):
    samples = make_samples(2, seed=0, hinted=0.5)
    free = record_samples(port, samples, "toy", "all", True, 2)
    steered = record_samples(port, samples, "toy", "all", True, 2, steering(*RULES))
    for before, after in zip(free, steered, strict=True):
        answers = np.asarray(after.kinds) == "answer"
        prompt = int((~answers).sum())
        assert np.isin(before.experts[:prompt, 0], [0, 1, 2]).any()
        assert not np.isin(after.experts[:prompt, 0], [0, 1, 2]).any()
        assert (after.experts[answers, 1] == 5).any(axis=-1).all()
        assert (after.experts[answers, 0, 0] == 3).all()
        assert after.experts[prompt - 1, 1, :2].tolist() == [4, 2]
        np.testing.assert_allclose(after.weights[prompt - 1, 1, :2], [0.75, 0.25], atol=1e-3)
        np.testing.assert_array_equal(after.logits[0, 0], before.logits[0, 0])  # the gate's own
        others = after.experts[: prompt - 1, 1]
        assert not (others[:, :2] == [4, 2]).all()


def test_a_steering_that_changes_nothing_leaves_answers_and_routes_equal(port):
    samples = make_samples(2, seed=0, hinted=0.5)
    free = record_samples(port, samples, "toy", "all", False, 2)
    steered = record_samples(port, samples, "toy", "all", False, 2, steering({"boost": {"0": 1.0}, "lambda": 0}))
    for before, after in zip(free, steered, strict=True):
        assert before.prediction == after.prediction
        np.testing.assert_array_equal(before.experts, after.experts)
        np.testing.assert_allclose(before.weights, after.weights, atol=1e-3)


@pytest.mark.slow
def test_steered_features_serve_losses_and_generation_alike(port):
    """The loss of the steered model's own answer is that of its greedy logits."""
    samples = make_samples(1, seed=0, hinted=0.5)
    tables = bind(steering(*RULES), port)
    model, routing = steered_model(port.model, tables)
    assert model.spec.layer_names == ("layer 0", "layer 1")
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], port.processor.prepare(port.params, samples))

    @jax.jit
    def measured(params, inputs):
        features = model.encode(params, inputs)
        tokens, logits = model.greedy(params, features, routing, 3)
        answered = model.as_answer(tokens)
        logprobs, mask = model.token_logprobs(params, features, routing, answered)
        return tokens, logits, logprobs, mask, model.answer_loss(params, features, routing, answered)

    tokens, logits, logprobs, mask, loss = measured(port.params, inputs)
    np.testing.assert_allclose(logprobs[mask], jax.nn.log_softmax(logits)[mask], atol=1e-4)
    picked = jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(loss, -picked[mask].mean(), rtol=1e-4)


def test_toy_weights_are_shifted_masked_and_replaced_by_hand():
    port, (sample,) = toy(), make_samples(1, seed=0, hinted=1.0)
    named = int(np.argmax([name in sample.question for name in port.model.spec.experts]))
    _, router = encode_batch(port.params, port.processor.prepare(port.params, [sample]), model=port.model)
    own = np.asarray(router[0])  # e^4 on the named expert, 1 on the others
    masked = answer(port, sample.image, sample.question, steering=rules({"layers": [0], "mask": [named]}))
    assert masked.evaluations == 1
    assert masked.strategy == "steer"
    np.testing.assert_allclose(masked.weights[0], np.where(np.arange(3) == named, 0, 0.5), atol=1e-6)
    np.testing.assert_allclose(masked.weights[1], own[1], rtol=1e-5)
    boosted = answer(port, sample.image, sample.question, steering=rules({"boost": {str(named): -2.0}, "lambda": 2.0}))
    np.testing.assert_allclose(boosted.weights, 1 / 3, rtol=1e-5)  # e^4 e^-4
    weighed = answer(
        port, sample.image, sample.question,
        steering=rules({"layers": [0], "weigh": {"left": 0.2, "right": 0.6}}, {"layers": [1], "mask": [named]}),
    )  # fmt: skip
    np.testing.assert_allclose(weighed.weights[0], [0.2, 0, 0.6], rtol=1e-6)
    np.testing.assert_allclose(weighed.weights[1], np.where(np.arange(3) == named, 0, 0.5), atol=1e-6)
    scaled = answer(port, sample.image, sample.question, steering=rules({"boost": [named], "unit": "std"}))
    spread = np.std([4.0, 0.0, 0.0])
    wanted = np.exp(np.where(np.arange(3) == named, 4 + spread, 0))
    np.testing.assert_allclose(scaled.weights[0], wanted / wanted.sum(), rtol=1e-5)


def rules(*content):
    return {"steering": 1, "rules": list(content)}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"mask": [8]}], "rules[0].mask: there is no expert 8; the model has the experts 0 to 5"),
        ([{"mask": ["left"]}], "rules[0].mask: there is no expert 'left'; the experts are expert 0, expert 1"),
        ([{"mask": [1, "1"]}], "rules[0].mask: expert 1 is named twice"),
        ([{"layers": "2", "mask": [1]}], "rules[0].layers: 2: the model has the layers 0 to 1"),
        ([{"mask": [0], "tokens": "image"}], "rules[0].tokens: letters has no image tokens"),
        ([{"mask": [0, 1, 2]}, {"layers": [1], "mask": [3, 4]}],
         "rules[1].mask: layer 1: leaves 1 experts, and a gate chooses 2"),
        ([{"select": [0, 1, 2]}], "rules[0].select: layer 0: selects 3 experts, and a gate chooses 2"),
        ([{"weigh": {"0": 1, "1": 1, "2": 1}}], "rules[0].weigh: layer 0: weighs 3 experts, and a gate chooses 2"),
        ([{"select": [0]}, {"mask": [0]}], "rules[1].mask: an earlier rule selects expert 0 for layer 0, text tokens"),
        ([{"mask": [0]}, {"select": [0]}], "rules[1].select: an earlier rule masks expert 0 for layer 0, text tokens"),
        ([{"boost": [0], "tokens": "last"}, {"weigh": {"0": 1}}],
         "rules[1].weigh: rules[0] has boost for layer 0, last tokens; weigh goes with no other rule there"),
        ([{"weigh": {"0": 1}}, {"layers": [1], "weigh": {"0": 1}}], "rules[1].weigh: rules[0] has weigh for layer 1"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_in_one_line(port, content, problem):
    with pytest.raises(R2T2Error) as error:
        bind(steering(*content), port)
    assert str(error.value).startswith(f"steering: {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([{"mask": [0], "tokens": "answer"}], "rules[0].tokens: toy routes whole samples, so tokens must be all"),
        ([{"select": [0]}], "rules[0].select: toy mixes all experts; mask the others, or weigh these"),
        (
            [{"mask": [0, 1]}, {"layers": [1], "mask": [2]}],
            "rules[1].mask: layer 2: leaves none of left, middle, right",
        ),
    ],
)
def test_what_a_model_of_whole_samples_cannot_follow_is_refused(content, problem):
    with pytest.raises(R2T2Error) as error:
        Steer(steering(*content)).check_port(toy())
    assert str(error.value).startswith(f"steering: {problem}")


def test_a_steering_goes_with_no_strategy():
    (sample,) = make_samples(1, seed=0, hinted=1.0)
    with pytest.raises(R2T2Error, match="a steering takes the place of strategy, preset, bank and routing weights"):
        answer(toy(), sample.image, sample.question, strategy="ngd", steering=rules({"mask": [0]}))


def test_masking_an_experts_support_names_the_sample():
    port, samples = toy(), make_samples(2, seed=0, hinted=1.0)

    class Narrow(type(port.model)):
        def support(self, features):
            return jnp.broadcast_to(jnp.asarray([[True, False, True]]), (*features["gate"].shape[:-1], 2, 3))

    narrow = replace(port, model=Narrow())
    with pytest.raises(R2T2Error, match=r"masks every expert that sample 'question-1' has in layer 1"):
        answer(narrow, samples[0].image, samples[0].question, steering=rules({"mask": ["left", "right"]}))


def test_commands_refuse_a_steering_that_the_model_cannot_follow(tmp_path, capsys):
    path = tmp_path / "steer.json"
    path.write_text('{"steering": 1, "rules": [{"tokens": "image", "mask": [0]}]}')
    out = tmp_path / "out"
    data = ["--data", "pocket", "--limit", "2", "--out", str(out), "--steer", str(path)]
    for command in (["routes", "record"], ["eval", "--strategy", "base"]):
        assert main([*command, "--model", "pocket:narrow", *data]) == 2
        err = capsys.readouterr().err
        assert f"{path}: rules[0].tokens: pocket:narrow routes whole samples" in err
        assert not out.exists()
