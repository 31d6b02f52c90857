"""Steering the architectures of all ports that have a gate, with tiny or shipped weights."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2t2_jax.contract import Port, Sample
from r2t2_jax.datasets import load_dataset
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.forward import encode_batch, generate_batch
from r2t2_jax.plugins import load
from r2t2_jax.routes.record import record_samples
from r2t2_jax.routing import Routing
from r2t2_jax.steering.files import parse_steering
from tests.ports.moai.tiny import draw_inputs
from tests.ports.moai.tiny import tiny as moai
from tests.ports.mova.tiny import COARSE, drawn_inputs
from tests.ports.mova.tiny import tiny as mova
from tests.ports.qwen3_5_moe.test_model import CONFIG as HYBRID
from tests.ports.qwen3_5_moe.test_model import model as hybrid
from tests.ports.qwen3_5_moe.test_model import sample as hybrid_sample

pytestmark = pytest.mark.slow

NUMBER = 2


@dataclass(frozen=True)
class Drawn:
    """A processor with given inputs of the samples, whose ids are their places; answers are their tokens."""

    inputs: Any

    def prepare(self, params: Any, samples: Any) -> Any:
        rows = np.array([int(sample.id) for sample in samples])
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], self.inputs)

    def decode(self, tokens: Any) -> list[str]:
        return [str(row) for row in np.asarray(tokens).tolist()]


def drawn_port(name: str) -> Port:
    if name == "moai":
        (model, params), rows = moai(), [draw_inputs(i) for i in range(NUMBER)]
        inputs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    elif name == "mova":
        (model, params), inputs = mova(), jax.tree.map(lambda leaf: jnp.asarray(leaf)[::2], drawn_inputs())
    else:
        (model, params), (prompt, _) = hybrid(), hybrid_sample()
        inputs = jax.tree.map(lambda leaf: jnp.stack([leaf] * NUMBER), prompt)
    return Port(name, model, params, Drawn(inputs), None, f"{name}-1", max_new_tokens=3)  # type: ignore[arg-type]


def samples_of(port: Port) -> list[Sample]:
    if port.name.startswith("pocket"):
        return list(load_dataset("pocket", "test", NUMBER, 0))
    return [Sample(str(i), np.zeros((2, 2, 3), np.uint8), "what ?", ()) for i in range(NUMBER)]


def steering(*rules: Any) -> Any:
    return parse_steering({"steering": 1, "rules": list(rules)})


def recorded(port: Port, *rules: Any) -> tuple[np.ndarray, list[str]]:
    """The recorded weights [B, L, E] of a model that routes whole samples, and its answers."""
    rows = record_samples(port, samples_of(port), "drawn", "all", False, NUMBER, steering(*rules) if rules else None)
    weights = np.zeros((NUMBER, *port.model.spec.shape))
    for i, row in enumerate(rows):
        np.put_along_axis(weights[i], row.experts[0].astype(int), row.weights[0].astype(float), axis=-1)
    return weights, [row.prediction for row in rows]


@pytest.mark.parametrize("name", ["pocket:narrow", "moai", "mova"])
def test_models_that_route_whole_samples_follow_mask_boost_and_weigh(name):
    port = load(name) if name.startswith("pocket") else drawn_port(name)
    spec, last = port.model.spec, port.model.spec.num_layers - 1
    inputs = port.processor.prepare(port.params, samples_of(port))
    features, router = encode_batch(port.params, inputs, model=port.model)
    free, answers = recorded(port)
    np.testing.assert_allclose(free, router, atol=1e-3)
    zero, unchanged = recorded(port, {"boost": {"0": 1.0}, "lambda": 0})
    np.testing.assert_allclose(zero, free, atol=1e-3)
    assert unchanged == answers

    expert = 5
    masked, _ = recorded(port, {"layers": [last], "mask": [expert]})
    assert (free[:, last, expert] > 1e-3).all()
    assert (masked[:, last, expert] == 0).all()
    np.testing.assert_allclose(masked[:, :last], free[:, :last], atol=1e-3)
    (group,) = (list(group) for group in spec.groups if expert in group)
    np.testing.assert_allclose(masked[:, last][:, group].sum(axis=-1), free[:, last][:, group].sum(axis=-1), atol=2e-3)
    if name != "moai":  # whose gates differ by token, so that a mean is no share
        others = np.where(np.arange(free.shape[-1]) == expert, 0, free[:, last])
        kept = np.where(others > 0, masked[:, last], 0)  # MoVA's gate chooses another expert in place of the masked one
        shares = (each / each.sum(axis=-1, keepdims=True) for each in (kept, others))
        np.testing.assert_allclose(*shares, atol=2e-3)

    boosted, _ = recorded(port, {"layers": [last], "boost": {str(expert): 2.0}, "lambda": 10.0})
    np.testing.assert_allclose(boosted[:, last, expert], free[:, last][:, group].sum(axis=-1), atol=2e-3)

    given = {group[0]: 0.5 for group in spec.groups if expert not in group} | {expert: 0.75}
    weighed, texts = recorded(port, {"layers": [0], "weigh": {str(e): weight for e, weight in given.items()}})
    values = np.array(router, np.float32)  # of the layers without a rule: in MoAI the mean of the gates
    values[:, 0] = [given.get(e, 0) for e in range(spec.shape[1])]
    np.testing.assert_allclose(weighed, values, atol=1e-3)
    replaced = generate_batch(port, features, Routing(jnp.asarray(values), "replace"))
    assert texts == port.processor.decode(np.asarray(replaced))


def test_weights_of_moai_are_for_both_groups_of_experts():
    with pytest.raises(R2T2Error, match=r"steering: rules\[1\].weigh: layer1: gives none of .* a weight; one of them"):
        recorded(drawn_port("moai"), {"layers": [1], "boost": [0]}, {"layers": [0], "weigh": {"5": 0.75}})


def test_mova_keeps_the_support_of_each_sample():
    port = drawn_port("mova")
    own = COARSE[::2]
    weighed, _ = recorded(port, {"weigh": {"2": 0.5, "5": 0.5}})
    np.testing.assert_allclose(weighed, np.where(own & np.isin(np.arange(7), [2, 5]), 0.5, 0)[:, None].repeat(3, 1))
    with pytest.raises(R2T2Error, match="mova: the steering masks every expert that sample '0' has in block0"):
        recorded(port, {"mask": np.flatnonzero(own[0]).tolist()})


def test_gates_of_a_decoder_with_full_and_linear_attention_follow_every_rule():
    port = replace(drawn_port("qwen3_5_moe"), max_new_tokens=4)
    rules = (
        {"layers": [0], "tokens": "prompt", "mask": [0, 1, 2]},
        {"layers": [1], "tokens": "answer", "select": [5]},
        {"layers": [2], "tokens": "last", "weigh": {"4": 0.75, "2": 0.25}},
        {"layers": [0], "tokens": "answer", "boost": {"expert 3": 1.0}, "lambda": 1e4},
    )
    samples = samples_of(port)
    free = record_samples(port, samples, "drawn", "all", False, NUMBER)[0]
    after = record_samples(port, samples, "drawn", "all", False, NUMBER, steering(*rules))[0]
    answers = np.asarray(after.kinds) == "answer"
    prompt = int((~answers).sum())
    assert HYBRID.full == (1,)
    assert np.isin(free.experts[:prompt, 0], [0, 1, 2]).any()
    assert not np.isin(after.experts[:prompt, 0], [0, 1, 2]).any()
    assert (after.experts[answers, 1] == 5).any(axis=-1).all()
    assert (after.experts[answers, 0, 0] == 3).all()
    assert after.experts[prompt - 1, 2].tolist() == [4, 2]
    np.testing.assert_allclose(after.weights[prompt - 1, 2], [0.75, 0.25], atol=1e-3)


def test_image_tokens_of_a_multimodal_model_are_steered_apart():
    port = load("pocket:sparse")
    rules = (
        {"layers": [0], "tokens": "image", "mask": [0, 1, 2, 3]},
        {"layers": [1], "tokens": "text", "select": [7]},
        {"layers": [2], "tokens": "last", "weigh": {"4": 0.75, "2": 0.25}},
        {"layers": [3], "tokens": "answer", "boost": {"9": 1.0}, "lambda": 50},
    )
    samples = samples_of(port)
    free = record_samples(port, samples, "pocket", "all", False, NUMBER)
    masked = record_samples(port, samples, "pocket", "all", False, NUMBER, steering(rules[0]))
    steered = record_samples(port, samples, "pocket", "all", False, NUMBER, steering(*rules))
    for before, first, after in zip(free, masked, steered, strict=True):
        kinds = np.asarray(after.kinds)
        image, text, answers = (kinds == kind for kind in ("image", "text", "answer"))
        assert np.isin(before.experts[image, 0], range(4)).any()
        assert not np.isin(after.experts[image, 0], range(4)).any()
        assert (after.experts[text, 1] == 7).any(axis=-1).all()
        last = int(np.flatnonzero(~answers)[-1])
        assert after.experts[last, 2].tolist() == [4, 2]
        np.testing.assert_allclose(after.weights[last, 2], [0.75, 0.25], atol=1e-3)
        assert (after.experts[answers, 3, 0] == 9).all()
        np.testing.assert_array_equal(after.experts[0, 1], first.experts[0, 1])  # an image token: no rule in layer 1
