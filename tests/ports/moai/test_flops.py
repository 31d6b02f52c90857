"""FLOPs of MoAI-7B by part against recorded ones, counted at full size without memory."""

import dataclasses
import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ports.common.checkpoint.mapping import named
from ports.moai.batch import MoAIAnswer
from ports.moai.config import EXPERTS, MoAIConfig
from ports.moai.costs import naive_config
from ports.moai.generate import run_tokens
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract, fake_inputs
from ports.moai.params import leaves
from r2t2_jax.costs.jaxpr import flops_by_scope, flops_within
from r2t2_jax.routing import Routing
from tests.flops_checks import flops_of
from tests.goldens import find_goldens

FULL, TINY = MoAIConfig.full_7b(), MoAIConfig.tiny()
ALL_MIXED = dataclasses.replace(TINY, mixer_every=1, layers=2)
NAIVE = naive_config(FULL)
EXPERT_NAMES = ("CA_img_aux", "CA_img_lang", "SA_img", "CA_lang_aux", "CA_lang_img", "SA_lang")  # upstream's


def close(ours, theirs):
    assert ours == pytest.approx(theirs, rel=0.005)


def encode(params, inputs):
    return nnx.merge(abstract(NAIVE)[0], params).encode(inputs)


def prefill(params, features):
    """Logits of every row of the prompt, and the cache."""
    net = nnx.merge(abstract(NAIVE)[0], params)
    x, cache, _ = net.prefill(features, None, every_row=True)
    return net.logits(x), cache


def decode(params, features, cache):
    """Logits behind one more token."""
    net = nnx.merge(abstract(NAIVE)[0], params)
    layout = features.layout
    return net.logits(run_tokens(net, jnp.zeros(1, jnp.int32), layout.length, cache, layout.valid))


@cache
def counts():
    """FLOPs by scope of `encode` and `prefill`, and the shapes of what they return."""
    params, inputs = abstract(NAIVE)[1], jax.eval_shape(lambda: fake_inputs(NAIVE, 64, 275))
    encoding, features = jax.make_jaxpr(encode, return_shape=True)(params, inputs)
    filling, (_, kv_cache) = jax.make_jaxpr(prefill, return_shape=True)(params, features)
    return flops_by_scope(encoding), flops_by_scope(filling), features, kv_cache


@pytest.mark.parametrize("path", find_goldens("flops_moai7b.json"))
def test_golden_flops_by_part(path):
    golden = json.loads(path.read_text(encoding="utf-8"))
    recorded, per_layer = golden["flops"], golden["llm_per_layer"]
    encoding, filling, features, kv_cache = counts()
    everything = encoding + filling
    adapters, attention, experts, gates = (
        flops_within(everything, "prompt", part) for part in ("adapters", "attention", "mixer_experts", "mixer_gates")
    )
    linears = flops_within(everything, "prompt") - adapters - attention - experts - gates
    close(flops_within(everything, "vision_tower") / 2, recorded["vit_one_pass"])
    close(flops_within(everything, "vision_projector") / 2, recorded["vision_proj_one_pass"])
    close(flops_within(everything, "compressor"), recorded["compressor"])
    close(linears, recorded["llm_linears_32"])
    close(adapters, recorded["llm_plora_32"])
    close(attention, recorded["llm_attention_full_LxL_32"])
    close(experts, recorded["mixer_experts_4_layers"])
    close(gates, recorded["mixer_gates_4_layers"])
    close(flops_within(everything, "lm_head"), recorded["head_all_positions"])
    close(flops_within(everything, "lm_head") / 1289, recorded["head_last_only"])
    close(everything.total(), recorded["total_prefill"])
    close(filling.total(), recorded["route_dependent_suffix(layers 7..31, 3 later mixers, head)"])
    close(flops_of(decode, abstract(NAIVE)[1], features, kv_cache), recorded["decode_per_token_ctx1289"])
    for part, name in ((linears, "linears"), (adapters, "plora"), (attention, "attn")):
        close(part / FULL.layers, per_layer[f"per_layer_{name}"])


@pytest.mark.parametrize("path", find_goldens("flops_moai7b.json"))
def test_golden_flops_of_each_expert(path):
    recorded = json.loads(path.read_text(encoding="utf-8"))["expert_flops_per_mixer_layer"]
    graph, params = abstract(ALL_MIXED_FULL := dataclasses.replace(FULL, mixer_every=1, layers=1))
    assert ALL_MIXED_FULL.mixers == 1
    rows = {"img": FULL.image_tokens, "lang": 64, "aux": FULL.compressor_latents}
    for name, upstream in zip(EXPERTS, EXPERT_NAMES, strict=True):
        queries, keys = name.split("_")

        def expert(params, x, seen, name=name):
            mixer = nnx.merge(graph, params).mixed.mixer
            return getattr(jax.tree.map(lambda leaf: leaf[0], mixer), name)(x, seen, None)

        keys = queries if keys == "self" else keys
        shapes = (jax.ShapeDtypeStruct((rows[side], FULL.width), FULL.dtype) for side in (queries, keys))
        close(flops_of(expert, params, *shapes), recorded[upstream])


# Recorded from formulas: (encode, one loss under given weights), with factored and with merged adapters.
RECORDED = {
    "full": ((6350759477248, 15283167756288), (6027064066048, 14169501401088)),
    "tiny": ((9693952, 16090560), (9620224, 15857088)),
    "every layer mixed": ((5810944, 7296384), (5810944, 7210368)),
}
CONFIGS = {"full": FULL, "tiny": TINY, "every layer mixed": ALL_MIXED}


@pytest.mark.parametrize("merged", [False, True], ids=["factored", "merged"])
@pytest.mark.parametrize("name", RECORDED)
def test_every_configuration_has_the_recorded_flops(name, merged):
    config = dataclasses.replace(CONFIGS[name], merged_plora=merged)
    graph, params = abstract(config)
    model, inputs = MoAIModel(config, graph), fake_inputs(config, text=64, verbalization=275)
    features = jax.eval_shape(model.encode, params, inputs)
    answer = MoAIAnswer(jnp.zeros(8, jnp.int32), jnp.ones(8, bool))
    loss = flops_of(model.answer_loss, params, features, Routing(jnp.ones(model.spec.shape)), answer)
    assert (flops_of(model.encode, params, inputs), loss) == RECORDED[name][merged]
    tokens = jax.eval_shape(partial(model.generate, max_new_tokens=5), params, features, None)
    assert tokens.shape == (5,)
    assert merged or set(leaves(config)) == set(named(params))
