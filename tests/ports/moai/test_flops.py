"""FLOPs in closed form against recorded ones and against the program, at full size without memory."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from ports.common.checkpoint.mapping import named
from ports.moai import flops
from ports.moai.batch import MoAIAnswer
from ports.moai.config import EXPERTS, MoAIConfig
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract, fake_inputs
from ports.moai.params import leaves
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.routing import Routing
from tests.goldens import find_goldens

FULL, TINY = MoAIConfig.full_7b(), MoAIConfig.tiny()
ALL_MIXED = dataclasses.replace(TINY, mixer_every=1, layers=2)
PARTS = {
    "vit_one_pass": "tower, one pass",
    "vision_proj_one_pass": "projector, one pass",
    "compressor": "compressor",
    "llm_linears_32": "linears",
    "llm_plora_32": "adapters",
    "llm_attention_full_LxL_32": "attention",
    "mixer_experts_4_layers": "experts",
    "mixer_gates_4_layers": "gates",
    "head_all_positions": "head, all rows",
    "head_last_only": "head, last row",
}


def close(ours, theirs):
    assert ours == pytest.approx(theirs, rel=0.005)


@pytest.mark.parametrize("path", find_goldens("flops_moai7b.json"))
def test_golden_flops(path):
    recorded = json.loads(path.read_text(encoding="utf-8"))
    parts = flops.prefill_parts(FULL)
    for theirs, ours in PARTS.items():
        close(parts[ours], recorded["flops"][theirs])
    close(flops.prefill_flops(FULL), recorded["flops"]["total_prefill"])
    close(flops.routed_flops(FULL), recorded["flops"]["route_dependent_suffix(layers 7..31, 3 later mixers, head)"])
    close(flops.decode_flops(FULL, 1289), recorded["flops"]["decode_per_token_ctx1289"])
    names = ("CA_img_aux", "CA_img_lang", "SA_img", "CA_lang_aux", "CA_lang_img", "SA_lang")
    for name, upstream in zip(EXPERTS, names, strict=True):
        close(flops.experts(FULL, 64)[name], recorded["expert_flops_per_mixer_layer"][upstream])
    for ours, name in (
        (flops.layer_linears(FULL, 1289), "per_layer_linears"),
        (flops.layer_plora(FULL), "per_layer_plora"),
        (flops.layer_attention(FULL, 1289, 1289), "per_layer_attn"),
    ):
        close(ours, recorded["llm_per_layer"][name])


@pytest.mark.parametrize("merged", [False, True], ids=["factored", "merged"])
@pytest.mark.parametrize("config", [FULL, TINY, ALL_MIXED], ids=["full", "tiny", "every layer mixed"])
def test_closed_form_equals_the_program(config, merged):
    config = dataclasses.replace(config, merged_plora=merged)
    graph, params = abstract(config)
    model, inputs = MoAIModel(config, graph), fake_inputs(config, text=64, verbalization=275)
    encode = jax.make_jaxpr(model.encode, return_shape=True)
    jaxpr, features = encode(params, inputs)
    assert count_flops(jaxpr) == flops.encode_flops(config, 64, 275)
    answer = MoAIAnswer(jnp.zeros(8, jnp.int32), jnp.ones(8, bool))
    loss = jax.make_jaxpr(model.answer_loss)(params, features, Routing(jnp.ones(model.spec.shape)), answer)
    assert count_flops(loss) == flops.forward_flops(config, 64, 8)
    tokens = jax.eval_shape(partial(model.generate, max_new_tokens=5), params, features, None)
    assert tokens.shape == (5,)
    assert merged or set(leaves(config)) == set(named(params))
