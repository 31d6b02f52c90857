"""The whole tiny model against the original code: from pixels to loss, tokens and the gradient of the routing."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ports.common.layers.attention import causal_mask
from ports.mova.batch import IMAGE, ImageViews, MovaAnswer, MovaInputs
from ports.mova.config import EXPERTS
from ports.mova.model import MovaModel
from ports.mova.modeling import merge_image, positions
from r2t2_jax.contract import Query, References
from r2t2_jax.method.presets import Preset
from r2t2_jax.method.rerouting import reroute_sample
from r2t2_jax.methods import strategy
from r2t2_jax.routing import Routing
from tests.goldens import find_goldens
from tests.ports.mova.recorded import FEATURES, GRADIENTS, LOGITS, Recorded, mova_config, params_of, pixels

GOLDENS = find_goldens("golden_mova_llm_*.npz")
IGNORED = -100


@pytest.fixture(autouse=True)
def precise():
    with jax.default_matmul_precision("highest"):
        yield


def close(ours, theirs, atol=FEATURES, rtol=0.0):
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


class Replay:
    """A golden with its model; what several tests need is computed once."""

    def __init__(self, path):
        self.golden = Recorded(path)
        self.config = mova_config(self.golden)
        self.graph, self.params = params_of(self.golden, self.config)
        self.model = MovaModel(self.config, self.graph)
        views = ImageViews(
            *(pixels(self.golden[f"in/{name}"]) for name in ("images", "images", "high_images")),
            self.golden["in/flattened_patches"],
        )
        self.views = ImageViews(views.clip[..., :3], views.dinov2[..., 3:], views.high, views.patches)
        self.native = self.run(self.see, self.views)
        self.aligned = self.run(self.see_aligned, self.views)

    def run(self, function, *rows):
        """`function(net, *row)` for every row, compiled once."""

        @jax.jit
        def over(params, *rows):
            return jax.lax.map(lambda row: function(nnx.merge(self.graph, params), *row), rows)

        return jax.tree.map(np.asarray, over(self.params, *rows))

    @staticmethod
    def see(net, views):
        return [net.clip(views.clip), *(net.run_tower(name, views) for name in EXPERTS)]

    @staticmethod
    def see_aligned(net, views):
        return [net.encode_base(views), *(net.encode_expert(name, views) for name in EXPERTS)]

    def inputs(self, case, tokens, masks=None):
        """Inputs of every row of a case, experts outside its mask left out as upstream does for one sample."""
        golden = self.golden
        masks = golden[f"{case}/in/routing_mask"] > 0 if masks is None else masks
        rows = len(masks)
        text = "batch2/in/bert" if case == "batch2" else "text/in/bert"
        experts = [
            np.where(masks[:, number, None, None], part[:rows], 0) for number, part in enumerate(self.aligned[1:])
        ]
        padding = golden["batch2/in/attention_mask"] > 0 if case == "batch2" else tokens != IGNORED
        return MovaInputs(
            self.aligned[0][:rows],
            tuple(experts),
            masks,
            masks,
            tokens,
            padding,
            golden[f"{text}_input_ids"],
            golden[f"{text}_attention_mask"] > 0,
        )


replay = cache(Replay)


def forward(net, inputs, labels, routing):
    """Image tokens, merged prompt, logits everywhere, and upstream's loss, of one sample."""
    features = net.encode(inputs)
    states, weights = net.adapter.run_blocks(features.adapter, routing)
    image = net.adapter.image_tokens(features.adapter.base, states[-1])
    x, valid = merge_image(features.embeddings, features.mask, features.image_position, image)
    hidden, _ = net.decoder(x, causal_mask(valid), positions(valid))
    logits = net.logits(hidden)
    width = image.shape[0]
    merged = jnp.concatenate([labels, jnp.full(width - 1, IGNORED)])
    at = jnp.arange(len(merged))
    source = jnp.where(at < features.image_position, at, jnp.maximum(at - width + 1, 0))
    inside = (at >= features.image_position) & (at < features.image_position + width)
    merged = jnp.where(inside | ~valid, IGNORED, merged[source])
    scores = jax.nn.log_softmax(logits[:-1])
    picked = jnp.take_along_axis(scores, jnp.maximum(merged[1:], 0)[:, None], axis=1)[:, 0]
    live = merged[1:] != IGNORED
    return {
        "text_feat": features.adapter.text,
        "adapter_block_out": states,
        "weights_topk_renorm": weights,
        "image_features": image,
        "inputs_embeds": x,
        "labels_merged": merged,
        "attention_mask_merged": valid,
        "logits": logits,
        "losses": jnp.where(live, -picked, 0.0),
        "live": live,
    }


@pytest.mark.parametrize("path", GOLDENS)
def test_towers(path):
    replayed = replay(path)
    golden = replayed.golden
    for number, name in enumerate(("clip", *EXPERTS)):
        features = replayed.aligned if name == "dinov2" else replayed.native  # upstream caches DINOv2's aligned
        close(features[number][:1], golden[f"tower_all/out/native_{name}"])
    for case in ("tower_all", "tower_some", "tower_none", "tower_batch2"):
        mask = golden[f"{case}/in/routing_mask"] > 0
        if len(mask) > 1:
            mask = np.ones_like(mask)  # upstream runs every expert on a batch
        parts = [
            part[: len(mask)] * (1.0 if number == 0 else mask[:, number - 1, None, None])
            for number, part in enumerate(replayed.aligned)
        ]
        close(np.concatenate(parts, axis=-1), golden[f"{case}/out/features_concat"])


@pytest.mark.parametrize("path", GOLDENS)
def test_answer(path):
    replayed = replay(path)
    golden = replayed.golden
    for case in ("answer", "batch2"):
        tokens, labels = golden[f"{case}/in/input_ids"], golden[f"{case}/in/labels"]
        ours = replayed.run(lambda *args: forward(*args, None), replayed.inputs(case, tokens), labels)
        for name in ("text_feat", "image_features", "inputs_embeds"):
            if f"{case}/out/{name}" in golden.arrays:
                theirs = golden[f"{case}/out/{name}"]
                valid = golden[f"{case}/out/attention_mask_merged"] > 0 if case == "batch2" else np.ones(1, bool)
                if name == "inputs_embeds" and case == "batch2":
                    close(ours[name][valid], theirs[valid])
                else:
                    close(ours[name], theirs)
        for name in ("adapter_block_out", "weights_topk_renorm"):
            if f"{case}/out/{name}" in golden.arrays:
                close(ours[name].swapaxes(0, 1), golden[f"{case}/out/{name}"])
        valid = ours["attention_mask_merged"]
        if f"{case}/out/attention_mask_merged" in golden.arrays:
            np.testing.assert_array_equal(valid, golden[f"{case}/out/attention_mask_merged"] > 0)
        np.testing.assert_array_equal(ours["labels_merged"], golden[f"{case}/out/labels_merged"])
        close(ours["logits"][valid], golden[f"{case}/out/logits"][valid], LOGITS)
        close((ours["losses"].sum() / ours["live"].sum())[None], golden[f"{case}/out/loss"], LOGITS)


@pytest.mark.parametrize("path", GOLDENS)
def test_coarse_pass(path):
    replayed = replay(path)
    golden = replayed.golden
    length = golden["routing_generate/out/sequences"].shape[1]

    def coarse(net, base, tokens):
        image = net.adapter.image_tokens(base, net.adapter.without_experts(base))
        few = net.coarse_image_tokens(base)
        mask = jnp.ones(len(tokens), bool)
        x, valid = merge_image(net.embed(tokens), mask, jnp.argmax(tokens == IMAGE), few)
        hidden, _ = net.decoder(x, causal_mask(valid), positions(valid))
        prompt = net.prefill(net.embed(tokens), mask, jnp.argmax(tokens == IMAGE), few)
        return image, x, net.logits(hidden), net.generate(prompt, length)

    tokens = golden["routing/in/input_ids"]
    image, x, logits, generated = replayed.run(coarse, replayed.aligned[0][: len(tokens)], tokens)
    close(image, golden["routing/out/image_features_before_pool"])
    close(x, golden["routing/out/inputs_embeds"])
    close(logits, golden["routing/out/logits"], LOGITS)
    same_until_end(generated, golden["routing_generate/out/sequences"], replayed.config.end)


def same_until_end(ours, theirs, end):
    for mine, recorded in zip(ours, theirs, strict=True):
        stop = list(recorded).index(end) + 1 if end in recorded else len(recorded)
        np.testing.assert_array_equal(mine[:stop], recorded[:stop])


@pytest.mark.parametrize("path", GOLDENS)
def test_greedy_answer(path):
    replayed = replay(path)
    golden, model = replayed.golden, replayed.model
    theirs, steps = golden["answer_generate/out/sequences"], golden["answer_generate/out/step_logits"]
    inputs = replayed.inputs("answer", golden["answer_generate/in/input_ids"])

    def answer(net, inputs, recorded):
        features = net.encode(inputs)
        params = nnx.state(net)
        prompt = model._prefill(params, features, None)[1]
        forced = MovaAnswer(recorded, jnp.ones(recorded.shape, bool))
        return model.generate(params, features, None, len(recorded)), net.answer_logits(prompt, forced)

    generated, logits = replayed.run(answer, inputs, theirs)
    same_until_end(generated, theirs, replayed.config.end)
    close(logits[0], steps, LOGITS)


@pytest.mark.parametrize("path", GOLDENS)
def test_given_weights(path):
    replayed = replay(path)
    golden, blocks = replayed.golden, replayed.config.adapter.blocks
    cases = sorted({name.split("/")[0] for name in golden.arrays if name.startswith("explicit_")})
    assert cases
    r = [golden[f"{case}/in/r"] for case in cases]
    r = np.stack([np.broadcast_to(value, (blocks, value.shape[-1])) for value in r])
    masks = np.concatenate([golden[f"{case}/in/routing_mask"] for case in cases]) > 0
    one = replayed.inputs("answer", golden["answer/in/input_ids"], np.ones_like(masks[:1]))
    inputs = [
        MovaInputs(**{**vars(one), "coarse": mask[None], "available": mask[None]}) for mask in masks
    ]  # fmt: skip
    inputs = jax.tree.map(lambda *leaves: np.concatenate(leaves), *inputs)
    labels = np.repeat(golden["answer/in/labels"], len(cases), axis=0)

    def differentiate(net, inputs, labels, r):
        def loss(r):
            facts = forward(net, inputs, labels, Routing(r))
            return facts["losses"].sum() / facts["live"].sum(), facts

        (value, facts), gradient = jax.value_and_grad(loss, has_aux=True)(r)
        return value, facts["image_features"], facts["logits"], gradient

    value, image, logits, gradient = replayed.run(differentiate, inputs, labels, r)
    for row, case in enumerate(cases):
        close(image[row][None], golden[f"{case}/out/image_features"])
        close(logits[row][None], golden[f"{case}/out/logits"], LOGITS)
        close(value[row][None], golden[f"{case}/out/loss"], LOGITS)
        theirs = golden[f"{case}/out/grad_r"]
        close(gradient[row] if theirs.ndim == 2 else gradient[row].sum(axis=0), theirs, GRADIENTS)
        assert (gradient[row][:, ~masks[row]] == 0).all()


@pytest.mark.parametrize("path", GOLDENS)
def test_the_first_step_of_descent_is_the_recorded_gradient_times_the_step_size(path):
    """Through the contract and the strategies: a neighborhood of one whose answer is the golden's labeled tail."""
    replayed = replay(path)
    golden, model = replayed.golden, replayed.model
    labels, ids = golden["answer/in/labels"][0], golden["answer/in/input_ids"][0]
    begin = int(np.argmax(labels != IGNORED))
    assert (labels[begin:] == ids[begin:]).all()
    everything = np.ones((1, len(EXPERTS)), bool)
    inputs = jax.tree.map(lambda leaf: leaf[0], replayed.inputs("answer", ids[None, :begin], everything))
    answer = MovaAnswer(ids[begin:], np.ones(len(ids) - begin, bool))
    rate = 0.5
    preset = Preset.from_mapping(
        {
            "neighborhood.k": 1,
            "space.kind": "free",
            "descent.optimizer": "sgd",
            "descent.schedule": "fixed",
            "descent.learning_rate": rate,
            "descent.steps": 1,
        }
    )

    @jax.jit
    def descend(params, inputs, answer, r):
        features = model.encode(params, inputs)
        one = jax.tree.map(lambda leaf: leaf[None], (features, answer))
        query = Query(features, r, model.support(features))
        references = References(r[None], *one, r[None], jnp.ones(1))
        return reroute_sample(strategy("ngd", preset), model, params, query, references, jax.random.key(0)).path

    r = golden["explicit_dense/in/r"]
    path_of_r = np.asarray(descend(replayed.params, inputs, answer, r))
    close((path_of_r[0] - path_of_r[1]) / rate, golden["explicit_dense/out/grad_r"], GRADIENTS)
