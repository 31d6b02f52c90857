"""`pocket:sparse`: the shipped weights, their agreement with the forward pass of training, settings and bad input."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.moe import ExpertChoice
from ports.pocket.dataset import load as questions
from ports.pocket.port import load, shapes
from ports.pocket.questions import vocabulary
from ports.pocket.scenes import make_scene, render
from ports.pocket.sparse import WEIGHTS, read_sparse, write_sparse
from ports.pocket.sparse_config import sparse_config
from ports.pocket.tokenizer import Tokenizer
from ports.pocket.training import sparse_model
from ports.pocket.training.sparse import SparseRecipe, encode, train
from ports.pocket.training.sparse_data import pack_questions
from ports.pocket.training.sparse_measure import information
from r2t2_jax.bank.atlas import open_atlas
from r2t2_jax.contract import Sample, Turn
from r2t2_jax.errors import R2T2Error
from r2t2_jax.method.presets import PAPER
from r2t2_jax.methods import find_preset, own_preset
from r2t2_jax.routing import Routing

N = 16


@pytest.fixture(scope="module")
def port():
    return load("sparse")


@pytest.fixture(scope="module")
def encoder(port):
    one = jax.jit(jax.vmap(port.model.encode, in_axes=(None, 0)))
    return lambda samples: one(port.params, port.processor.prepare(port.params, samples))


@pytest.fixture(scope="module")
def losses(port):
    """The loss of each sample's first answer, with given weights or the router's own."""

    def one(feature, answer, weights):
        return port.model.answer_loss(port.params, feature, Routing(weights), answer)

    free = jax.jit(jax.vmap(lambda feature, answer: port.model.answer_loss(port.params, feature, None, answer)))
    replaced = jax.jit(jax.vmap(one))

    def run(features, samples, weights=None):
        answers = port.processor.answer_ids([sample.answers[0] for sample in samples])
        return free(features, answers) if weights is None else replaced(features, answers, weights)

    return run


def packed_losses(port, scenes, rows):
    """The mean loss of each packed question by the forward pass of training, and each as a sample."""
    tokens, template = Tokenizer(vocabulary()), questions("train", 1, 5)[0]
    net = nnx.merge(port.model.graph, port.params)
    features = jax.jit(lambda images: encode(net, images))(jnp.asarray(np.stack([render(s) for s in scenes])))
    picked = jax.tree.map(lambda leaf: leaf[rows.scene], features)
    logits, _, _ = jax.jit(lambda f, r: sparse_model.run(net.decoder, f, r))(picked, rows)
    target = np.asarray(rows.target)
    logprobs = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.maximum(target, 0)[..., None], -1)[..., 0]
    samples, means = [], []
    for row in range(len(target)):
        for number in range(int(rows.question[row].max()) + 1):
            mine = np.asarray(rows.question[row] == number)
            text = tokens.decode(np.asarray(rows.tokens[row])[mine & (target[row] < 0)].tolist())
            answered = mine & (target[row] >= 0)
            image, answer = render(scenes[int(rows.scene[row])]), tokens.decode(target[row][answered].tolist())
            samples.append(replace(template, image=image, question=text, answers=(answer,)))
            means.append(-logprobs[row, answered].mean())
    return means, samples


def test_the_port_has_its_own_settings_and_the_atlas_of_its_default_routing(port):
    assert own_preset(port.name, port.presets) == "pocket"
    descent = {"optimizer": "adam", "learning_rate": 0.1, "final_learning_rate": 0.1 / 30}
    settings = {"space.kind": "logit", **{f"descent.{name}": value for name, value in descent.items()}}
    assert find_preset("pocket", port.presets) == PAPER.with_settings(settings)
    open_atlas(port.atlas).check(port.fingerprint, port.model.spec)
    assert load("sparse,scope=image").atlas is None and load("sparse,layers=last2").atlas is None
    assert load("sparse,prompt_bucket=64").atlas == port.atlas


def test_packed_questions_have_the_losses_that_the_port_gives_to_each_alone(port, encoder, losses, monkeypatch):
    monkeypatch.setattr(sparse_model, "SLACK", 8.0)  # 16 experts, 2 a token: no token is dropped
    scenes = [make_scene("train", 5, number) for number in range(5)]
    rows = pack_questions(Tokenizer(vocabulary()), scenes, "train", 4, 0)
    means, samples = packed_losses(port, scenes, rows)
    assert len(means) >= N
    alone = losses(encoder(samples[:N]), samples[:N])
    np.testing.assert_allclose(alone, means[:N], rtol=2e-4, atol=2e-4)


def test_the_shipped_weights_answer_as_recorded(port, encoder):
    samples = questions("validation", N, 0)
    answer = jax.jit(jax.vmap(lambda feature: port.model.generate(port.params, feature, None, port.max_new_tokens)))
    answers = port.processor.decode(np.asarray(answer(encoder(samples))))
    assert sum(text == sample.answers[0] for text, sample in zip(answers, samples, strict=True)) == 11
    measured = json.loads((WEIGHTS / "model.json").read_text())["measured"]
    assert measured["accuracy"]["n"] > 1500
    assert measured["accuracy"]["all"] > 0.75  # without the image: 0.31


def test_own_weights_of_the_last_token_leave_the_loss_unchanged_and_others_change_it(port, encoder, losses):
    samples = questions("validation", N, 0)
    features = encoder(samples)
    own = jax.jit(jax.vmap(lambda feature: port.model.route(port.params, feature)))(features)
    assert own.shape == (N, 4, 16)
    np.testing.assert_allclose(own.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal((own > 0).sum(axis=-1), 2)
    untouched = losses(features, samples)
    np.testing.assert_allclose(losses(features, samples, own), untouched, rtol=1e-4, atol=1e-5)
    uniform = losses(features, samples, jnp.full_like(own, 1 / 16))
    assert float(jnp.abs(uniform - untouched).max()) > 1e-2


def test_settings_choose_layers_tokens_and_core_experts():
    port = load("sparse,layers=last2,scope=all,core_experts=4")
    assert port.model.spec.shape == (2, 16)
    assert port.fingerprint.endswith("layers=2+3:all:core=4") and port.name.startswith("pocket:sparse,")
    assert load("sparse").fingerprint != port.fingerprint
    assert load("sparse").embedder.fingerprint == load("balanced").embedder.fingerprint
    model = shapes("sparse,layers=last1", None, None)
    assert model.features.core.shape == (1, 16) and model.costs is not None


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("sparse,layer=last1", "pocket:sparse has no setting 'layer=last1'"),
        ("sparse,layers=last9", "layers=last9 of a model with 4 layers"),
        ("sparse,scope=words", "there is no scope 'words'"),
        ("sparse,core_experts=1", "core_experts=1 of a model with 16 experts"),
        ("spars", "choose one of pocket:narrow, pocket:balanced, pocket:sparse"),
        ("narrow,layers=last1", "pocket has no variant 'narrow,layers=last1'"),
    ],
)
def test_bad_variants_are_named(variant, message):
    for function in (load, lambda name: shapes(name, None, None)):
        with pytest.raises(R2T2Error, match=message):
            function(variant)


def test_damaged_missing_and_foreign_weights_are_refused(tmp_path):
    copied = shutil.copytree(WEIGHTS, tmp_path / "weights")
    packed = bytearray((copied / "weights.npz").read_bytes())
    packed[len(packed) // 2] ^= 1
    (copied / "weights.npz").write_bytes(packed)
    with pytest.raises(R2T2Error, match="damaged"):
        read_sparse(copied)
    (copied / "weights.npz").unlink()
    with pytest.raises(R2T2Error, match="cannot be read"):
        read_sparse(copied)
    write_sparse(copied, sparse_config(), {"visual": jnp.zeros(2)})
    with pytest.raises(R2T2Error, match="visual has shape"):
        read_sparse(copied).fill({"visual": jax.ShapeDtypeStruct((3,), jnp.float32)})


def test_images_of_another_size_and_unknown_words_are_read(port):
    sample = questions("validation", 1, 0)[0]
    large = replace(sample, image=np.zeros((200, 300, 3), np.uint8), question="<weird> what color is the zebra ?")
    inputs = port.processor.prepare(port.params, [large])
    assert int(inputs.prompt.visual.sum()) in range(8, 17)
    image = port.processor.config.image_token
    assert port.processor.tokenizer.decode([image, image + 1]) == "<unknown> <unknown>"
    assert port.processor.unknown_words(large.question) == ["weird", "zebra"]
    with pytest.raises(R2T2Error, match="image tokens"):
        port.processor.prepare(port.params, [replace(sample, question="<image> ?")])


def test_images_and_texts_of_a_conversation_are_read_in_order(port):
    image, other = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    turns = (Turn("system", ("look",)), Turn("user", (image, "what color", other, "is it ?")))
    sample = Sample("a", image, "what color is it ?", (), conversation=turns)
    inputs = port.processor.prepare(port.params, [sample])
    alone = port.processor.prepare(port.params, [Sample("a", image, "what color is it ?", ())])
    visual, before = np.asarray(inputs.prompt.visual[0]), np.asarray(alone.prompt.visual[0])
    assert visual.sum() == 2 * before.sum()
    words = port.processor.tokenizer.encode("look what color is it ?")
    texts = np.asarray(inputs.prompt.tokens[0])[np.asarray(inputs.prompt.mask[0]) & ~visual]
    assert texts.tolist()[: len(words)] == words
    with pytest.raises(R2T2Error, match="one question at a time"):
        port.processor.prepare(port.params, [replace(sample, conversation=(Turn("assistant", ("red",)), *turns))])


def test_padding_takes_no_place_of_an_expert():
    keys = jax.random.split(jax.random.key(0), 3)
    experts = SimpleNamespace(
        gate_up=jax.random.normal(keys[0], (4, 3, 10)), down=jax.random.normal(keys[1], (4, 5, 3))
    )
    x, ids = jax.random.normal(keys[2], (8, 3)), jnp.asarray([[0, 1]] * 6 + [[0, 1], [2, 3]])
    choice, valid = ExpertChoice(jnp.zeros((8, 4)), ids, jnp.full((8, 2), 0.5)), jnp.arange(8) >= 6
    mixed = sparse_model.mix(experts, x, choice, valid)  # each expert has int(1.5 * 8 * 2 / 4) = 6 places

    def expert_output(row, expert):
        gate, up = jnp.split(x[row] @ experts.gate_up[expert], 2)
        return (jax.nn.silu(gate) * up) @ experts.down[expert]

    np.testing.assert_array_equal(mixed[:6], 0)
    for row in (6, 7):
        expected = (expert_output(row, ids[row, 0]) + expert_output(row, ids[row, 1])) / 2
        np.testing.assert_allclose(mixed[row], expected, rtol=1e-5)


def test_queries_start_near_keys_and_outputs_near_values():
    decoder = sparse_config().decoder.create(nnx.Rngs(0))
    sparse_model.initialize(decoder, {5: jnp.ones(64)})
    query, key = decoder.layers.q_proj.kernel[...], decoder.layers.k_proj.kernel[...]
    assert float(jnp.corrcoef(query[:, :, :16].ravel(), key[:, :, :16].ravel())[0, 1]) == pytest.approx(0.7, abs=0.05)
    value, output = decoder.layers.v_proj.kernel[...], decoder.layers.o_proj.kernel[...]
    whole = jnp.einsum("ndv,nve->nde", value[:, :, :16], output[:, :16])
    assert float(jnp.trace(whole, axis1=1, axis2=2).min()) > 4  # near V V^T / 2, whose trace is 8
    np.testing.assert_allclose(decoder.embed_tokens[...][5], 1, rtol=1e-6)
    np.testing.assert_allclose(decoder.lm_head.kernel[...][:, 5], 1 / 8, rtol=1e-6)


def test_information_of_a_split_by_family_and_of_none():
    split, equal = np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.full((2, 1, 2), 0.5)
    assert information(list(split), [3, 3]) == [1.0]
    assert information(list(equal), [3, 3]) == [0.0]


@pytest.mark.slow
def test_the_recipe_trains_and_resumes(tmp_path):
    recipe = SparseRecipe(tmp_path / "work", tmp_path / "out", shorten=1000, tower_scenes=40, scenes=20)
    first = train(recipe, validation=30)
    written = (recipe.out / "weights.npz").read_bytes()
    assert train(recipe, validation=30) == first  # from the finished stages
    assert (recipe.out / "weights.npz").read_bytes() == written
    assert set(first) == {"tower", "accuracy", "routing"}
