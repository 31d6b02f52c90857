"""Experts by hand, over mesh devices, and the settings, templates and fields that the ports of routed models share."""

import json
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.moe import Experts, dense, grouped, mixture, select, weights_at
from ports.common.moe_lm.chat import Chat, ChatTokenizer, TextProcessor, format_question, read_chat
from ports.common.moe_lm.config import routed_layers
from ports.common.moe_lm.port import RULES, parse_variant
from ports.common.sharding import shardings_by
from ports.olmoe.port import shapes as olmoe_shapes
from ports.qwen3_moe.port import shapes as qwen3_moe_shapes
from r2t2_jax.contract import Sample, Turn
from r2t2_jax.errors import R2T2Error

T, D, F, E, K = 11, 6, 5, 4, 2
COLLECTIVE = re.compile(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(")


def drawn():
    draw = np.random.default_rng(0)
    sizes = ((T, D), (E, D, 2 * F), (E, F, D), (T, E))
    x, gate_up, down, logits = (draw.normal(size=size).astype(np.float32) for size in sizes)
    return x, gate_up, down, logits


def expert(x, gate_up, down):
    hidden = x @ gate_up
    gate, up = hidden[..., :F], hidden[..., F:]
    return (gate / (1 + np.exp(-gate)) * up) @ down


def test_grouped_and_dense_experts_are_those_worked_out_one_by_one():
    x, gate_up, down, logits = drawn()
    choice = select(jnp.asarray(logits), K, normalize=True)
    outputs = grouped(x, choice.ids, gate_up, down)
    by_hand = np.stack([expert(x, gate_up[e], down[e]) for e in range(E)], axis=1)  # [T, E, D]
    np.testing.assert_allclose(outputs, np.take_along_axis(by_hand, np.asarray(choice.ids)[..., None], 1), atol=1e-5)
    np.testing.assert_allclose(dense(x, logits, gate_up, down), (logits[..., None] * by_hand).sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(choice.dense().sum(axis=1), 1, atol=1e-6)


def test_the_gradient_of_grouped_experts_is_that_of_dense_ones_also_when_mapped():
    x, gate_up, down, logits = drawn()
    choice = select(jnp.asarray(logits), K, normalize=False)

    def by_groups(x):
        return (choice.weights[..., None] * grouped(x, choice.ids, gate_up, down)).sum()

    gradient = jax.grad(by_groups)(jnp.asarray(x))
    np.testing.assert_allclose(
        gradient, jax.grad(lambda x: dense(x, choice.dense(), gate_up, down).sum())(x), atol=1e-5
    )
    mapped = jax.vmap(jax.grad(by_groups))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(mapped[0], gradient, atol=1e-5)


def test_a_mixture_of_core_experts_has_the_values_and_gradients_of_dense_experts_also_when_mapped():
    x, gate_up, down, logits = drawn()
    ids = jnp.asarray(np.stack([np.random.default_rng(row).permutation(E)[:3] for row in range(len(x))]))
    core = (ids[..., None] == jnp.arange(E)[None, None]).any(axis=1)
    weights = jnp.where(core, logits, 0)

    def by_groups(x, weights):
        return jnp.sin(mixture(x, ids, jnp.take_along_axis(weights, ids, axis=1), gate_up, down) / 10).sum()

    def densely(x, weights):
        return jnp.sin(dense(x, jnp.where(core, weights, 0), gate_up, down) / 10).sum()

    def both(function):
        return jax.jit(jax.vmap(jax.value_and_grad(function, argnums=(0, 1))))(
            jnp.stack([x, 2 * x]), jnp.stack([weights, weights])
        )

    for own, reference in zip(jax.tree.leaves(both(by_groups)), jax.tree.leaves(both(densely)), strict=True):
        np.testing.assert_allclose(own, reference, atol=2e-5)


def test_forced_experts_have_the_gates_own_weights():
    logits = jnp.log(jnp.asarray([[0.5, 0.2, 0.2, 0.1]]))
    np.testing.assert_allclose(weights_at(logits, jnp.asarray([[3, 1]]), True).weights, [[1 / 3, 2 / 3]], atol=1e-6)
    np.testing.assert_allclose(weights_at(logits, jnp.asarray([[3, 1]]), False).weights, [[0.1, 0.2]], atol=1e-6)


def test_a_batch_of_expert_weights_is_refused():
    x, gate_up, down, logits = drawn()
    ids = select(jnp.asarray(logits), K, True).ids
    with pytest.raises(ValueError, match="map over samples"):
        jax.vmap(lambda gate_up: grouped(x, ids, gate_up, down))(jnp.stack([gate_up, gate_up]))


def test_experts_cut_over_devices_give_the_same_results_with_few_collectives():
    x, _, _, logits = drawn()
    graph, params = nnx.split(Experts(E, D, F, nnx.Rngs(0)))
    choice = select(jnp.asarray(logits), K, True)

    @partial(jax.jit)
    def both(params, x, logits):
        experts = nnx.merge(graph, params)
        return experts.chosen(x, choice), experts.all(x, logits)

    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    rules = [(pattern.replace("layers/experts/", ""), axis) for pattern, axis in RULES if "experts" in pattern]
    placed = jax.device_put(params, shardings_by(rules, params, mesh))
    assert {leaf.addressable_shards[0].data.shape[0] for leaf in jax.tree.leaves(placed)} == {1}  # one expert a device
    for own, reference in zip(both(placed, x, logits), both(params, x, logits), strict=True):
        np.testing.assert_allclose(own, reference, atol=1e-5)

    @jax.jit
    def core(params, x):
        return nnx.merge(graph, params).core(x, choice.ids, choice.weights)

    np.testing.assert_allclose(core(placed, x), both(params, x, logits)[0], atol=1e-5)
    for text in (both.lower(placed, x, logits).compile().as_text(), core.lower(placed, x).compile().as_text()):
        lines = [line.split("=", 1)[1] for line in text.splitlines() if COLLECTIVE.search(line)]
        assert 1 <= len(lines) <= 7
        assert all("f32" not in line.split("(")[0] for line in lines if "all-gather(" in line)  # no weights gathered


@pytest.mark.parametrize(
    ("text", "layers"), [("all", range(48)), ("last5", range(43, 48)), ("8-20", range(8, 21)), ("43,45", (43, 45))]
)
def test_layers_by_name(text, layers):
    assert routed_layers(text, 48) == tuple(layers)
    assert parse_variant("port", f"dir,layers={text},scope=all") == ("dir", {"layers": text, "scope": "all"})


@pytest.mark.parametrize("shapes", [olmoe_shapes, qwen3_moe_shapes])
def test_text_models_refuse_the_image_scope(shapes):
    with pytest.raises(R2T2Error, match="reads no images: choose another scope than image"):
        shapes("tiny,scope=image", 20, 2)


def test_a_sample_without_pixels_is_refused_where_a_model_needs_them():
    with pytest.raises(R2T2Error, match="sample 'a' has no image, and this model needs one"):
        Sample("a", None, "?", ()).pixels()


def tokenizer(tmp_path, template, words=("<think>", "</think>")):
    from tokenizers import Tokenizer, models

    plain = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    plain.add_tokens(list(words))
    plain.save(str(tmp_path / "tokenizer.json"))
    return ChatTokenizer(tmp_path, Chat(template, (0,)))


def test_an_open_think_block_is_closed_or_refused(tmp_path):
    template = "{{ messages[0].content }}\nassistant\n<think>\n"
    assert tokenizer(tmp_path, template).prompt("Hi").endswith("<think>\n\n</think>\n\n")
    assert tokenizer(tmp_path, "{{ messages[0].content }} <think> is a word").prompt("Hi").endswith("is a word")
    with pytest.raises(R2T2Error, match="opens <think>, which its tokenizer cannot end"):
        tokenizer(tmp_path, template, ()).prompt("Hi")


def test_a_conversation_is_rendered_by_the_template(tmp_path):
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
    processor = TextProcessor(None, tokenizer(tmp_path, template), 4, 4)
    turns = (Turn("system", ("Be brief.",)), Turn("user", ("One", "two?")), Turn("assistant", ("Yes",)))
    sample = Sample("a", None, "And?", (), conversation=(*turns, Turn("user", ("And?",))))
    assert processor._text(sample) == "system: Be brief.\nuser: One\ntwo?\nassistant: Yes\nuser: And?\nassistant:"
    assert processor._text(Sample("a", None, "And?", ())) == "user: And?\nassistant:"
    assert (
        processor.reads_conversations
        and not replace(processor, tokenizer=tokenizer(tmp_path, None)).reads_conversations
    )


def test_templates_run_in_a_sandbox_and_their_errors_are_one_line(tmp_path):
    for template, message in (
        ("{{ raise_exception('no system\nturn') }}", "fails: no system turn"),
        ("{{ ''.__class__.__mro__ }}", "fails: access to attribute '__class__'"),
        ("{% if %}", "fails"),
    ):
        with pytest.raises(R2T2Error, match=message) as raised:
            tokenizer(tmp_path, template).prompt("Hi")
        assert "\n" not in str(raised.value)


def test_the_template_and_the_end_of_a_turn_are_read_from_the_checkpoint(tmp_path):
    with pytest.raises(R2T2Error, match="names no eos_token_id"):
        read_chat(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "first"}))
    assert read_chat(tmp_path) == Chat("first", (7,))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [8, 7]}))
    (tmp_path / "chat_template.jinja").write_text("second")
    assert read_chat(tmp_path) == Chat("second", (8, 7))


def test_questions_are_written_with_letters_and_instructions():
    text = format_question(" What? ", ("cat", "dog"), "letter")
    assert text == "What?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    assert format_question("What?", (), "plain") == "What?"
    with pytest.raises(R2T2Error, match="no prompt style 'loud'"):
        format_question("What?", (), "loud")
