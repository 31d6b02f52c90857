"""The full configuration at abstract shapes: every name of the checkpoint, FLOPs part by part. It takes no memory."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from ports.common.checkpoint.mapping import check, from_manifest, named
from ports.mova import flops
from ports.mova.batch import ImageViews, MovaAnswer
from ports.mova.config import EXPERTS, MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract, count_parameters, fake_inputs
from ports.mova.params import ignored, leaves
from r2t2_jax.costs.jaxpr import count_flops
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import Routing
from tests.goldens import find_goldens

FULL = MovaConfig.full_8b()
WHOLE = dataclasses.replace(FULL, select_layer=-1)  # with the last block of CLIP and DINOv2
MANIFESTS = [path for path in find_goldens("manifest_mova8b*.json") if "meta" not in path.id]


def manifest_of(path):
    return from_manifest(json.loads(path.read_text()))


@pytest.mark.parametrize("path", MANIFESTS)
@pytest.mark.parametrize("config", [FULL, WHOLE], ids=["-2", "-1"])
def test_golden_manifest_fills_every_parameter_and_uses_every_name(path, config):
    tensors = manifest_of(path)
    report = check(leaves(config), tensors, abstract(config)[1], ignored(config))
    assert len(report.mapped) + len(report.ignored) == len(tensors)
    unread = [name for name in report.ignored if "rope" not in name]
    counted = sum(leaf.size for leaf in named(abstract(config)[1]).values())
    left = sum(math.prod(tensors[name].shape) for name in unread)
    class_place = config.codetr.width  # Co-DETR's position table has a row for a class token, which is not there
    everything = sum(math.prod(tensor.shape) for name, tensor in tensors.items() if "rope" not in name)
    assert counted + left + class_place == everything


@pytest.mark.parametrize("path", MANIFESTS)
def test_golden_manifest_with_a_name_missing_or_extra_is_refused(path):
    tensors = manifest_of(path)
    gone, misshaped = "model.mm_projector.blocks.1.gate.2.bias", "model.norm.weight"
    del tensors[gone]
    tensors["model.surprise.weight"] = tensors[misshaped]
    tensors[misshaped] = dataclasses.replace(tensors[misshaped], shape=(5,))
    with pytest.raises(R2T2Error) as error:
        check(leaves(FULL), tensors, abstract(FULL)[1], ignored(FULL))
    for named_there in (gone, "model.surprise.weight", misshaped):
        assert named_there in str(error.value)


def sized(tower, side):
    """A tower for images of another size."""
    return dataclasses.replace(tower, image_size=side)


def analytic():
    """The parts of flops_mova8b_gflop.json by its names: a number, or a function of the numbers in the name."""
    adapter, experts = FULL.adapter, len(EXPERTS)
    blocks, decoder = adapter.blocks, FULL.decoder
    crossed = [flops.project(adapter, e) + flops.look(adapter) for e in range(experts)]
    none = blocks * (flops.self_attention(adapter) + flops.feed_forward(adapter)) + (
        flops.downsample(adapter) + flops.out_mlp(adapter)
    )
    return {
        r"clip_(\d+)": lambda n: flops.clip(sized(FULL.clip, n)),
        r"dinov2_(\d+)": lambda n: flops.dinov2(sized(FULL.dinov2, n), FULL.dinov2.layers),
        r"vary_(\d+)": lambda n: flops.vary(sized(FULL.vary, n)),
        r"sam_h_(\d+)": lambda n: flops.sam(sized(FULL.sam, n)),
        r"codetr_(\d+)": lambda n: flops.codetr(sized(FULL.codetr, n)),
        r"pix2struct_L_(\d+)": lambda n: flops.pix2struct(FULL.pix2struct, n),
        r"deplot_(\d+)": lambda n: flops.pix2struct(FULL.deplot, n),
        r"biomedclip_(\d+)": lambda n: flops.biomedclip(sized(FULL.biomedclip, n)),
        r"adapter_xattn_expert(\d)": lambda n: crossed[n],
        r"adapter_self_attn": lambda: flops.self_attention(adapter),
        r"adapter_mlp": lambda: flops.feed_forward(adapter),
        r"adapter_gate": lambda: flops.gate(adapter),
        r"adapter_downsample": lambda: flops.downsample(adapter),
        r"adapter_out_mlp": lambda: flops.out_mlp(adapter),
        r"adapter_total_no_expert": lambda: none,
        r"adapter_total_all_experts": lambda: none + blocks * sum(crossed),
        r"bert_large_(\d+)tok": lambda n: flops.bert(FULL.bert, n),
        r"llama8b_prefill_(\d+)": lambda n: flops.decoder(decoder, n, n) + flops.head(FULL, n),
        r"llama8b_decode_1tok_ctx(\d+)": lambda n: flops.decoder(decoder, 1, n) + flops.head(FULL, 1),
    }


@pytest.mark.parametrize("path", find_goldens("flops_mova8b_gflop*.json"))
def test_golden_flops_part_by_part(path):
    recorded = json.loads(path.read_text())
    for name, gflop in recorded.items():
        ((pattern, count),) = [item for item in analytic().items() if re.fullmatch(item[0], name)]
        ours = count(*map(int, re.fullmatch(pattern, name).groups())) / 1e9
        assert ours == pytest.approx(gflop, rel=5e-3), name


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def counted(function, *args):
    """FLOPs of `function(net, *args)` in its jaxpr."""
    graph, params = abstract(FULL)
    traced = jax.make_jaxpr(lambda params, *args: function(nnx.merge(graph, params), *args))(params, *args)
    return count_flops(traced)


def test_towers_in_the_program():
    tile, high = FULL.clip.image_size, FULL.high_size
    pixels = 3 * FULL.pix2struct.patch_size**2
    views = ImageViews(shaped(tile, tile, 3), shaped(tile, tile, 3), shaped(high, high, 3), shaped(2025, 2 + pixels))
    assert counted(lambda net, views: net.encode_base(views), views) == flops.clip(FULL.clip_built)
    for expert, expected in zip(EXPERTS, flops.experts(FULL), strict=True):
        assert counted(lambda net, views, expert=expert: net.encode_expert(expert, views), views) == expected


def test_adapter_and_language_model_in_the_program():
    adapter, width = FULL.adapter, FULL.decoder.width
    x = shaped(adapter.tokens, adapter.width)
    sources = [shaped(adapter.tokens, channels) for channels in adapter.expert_widths]
    for expert, source in enumerate(sources):
        of_expert = counted(lambda net, s, e=expert: net.adapter.blocks[1].expert_kv[e](s), source)
        assert of_expert == flops.project(adapter, expert)
    keys = shaped(len(sources), adapter.tokens, adapter.heads, adapter.head_width)
    read = counted(lambda net, x, keys: net.adapter.blocks[1].cross_attend(x, keys, keys), x, keys)
    assert read == len(sources) * flops.look(adapter)
    finish = counted(lambda net, x: net.adapter.blocks[1].attend_and_mlp(x), x)
    assert finish == flops.self_attention(adapter) + flops.feed_forward(adapter)
    gate = counted(lambda net, text, x: net.adapter.blocks[0].gate(text, x), shaped(adapter.text_width), x)
    assert gate == flops.gate(adapter)
    assert counted(lambda net, x: net.adapter.downsample.shrink(x), x) == flops.downsample(adapter)
    tail = counted(lambda net, x: net.adapter.downsample(x), x)
    assert tail == flops.downsample(adapter) + flops.out_mlp(adapter)
    words = jax.ShapeDtypeStruct((32,), jnp.int32), jax.ShapeDtypeStruct((32,), bool)
    assert counted(lambda net, *words: net.encode_question(*words), *words) == flops.bert(FULL.bert, 32)
    assert counted(lambda net, x: net.logits(x), shaped(5, width)) == flops.head(FULL, 5)


@pytest.mark.parametrize("keep", ["outputs", "keys"])
def test_encoding_and_an_evaluation_in_the_program(keep):
    config = dataclasses.replace(FULL, keep=keep)
    graph, params = abstract(config)
    model = MovaModel(config, graph)
    tokens, words, length = 70, 24, 8
    inputs = jax.eval_shape(lambda: fake_inputs(config, tokens, words))
    features = jax.eval_shape(model.encode, params, inputs)
    assert count_flops(jax.make_jaxpr(model.encode)(params, inputs)) == flops.encode(config, words, tokens // 2)
    answer = MovaAnswer(jax.ShapeDtypeStruct((length,), jnp.int32), jax.ShapeDtypeStruct((length,), bool))

    def loss(params, features, r, answer):
        return model.answer_loss(params, features, Routing(r), answer)

    program = jax.make_jaxpr(loss)(params, features, jax.ShapeDtypeStruct((3, 7), jnp.float32), answer)
    assert count_flops(program) == flops.forward(config, tokens, length, tokens // 2)


def test_the_paper_s_other_variant_and_the_tiny_one_can_be_built():
    vicuna = abstract(MovaConfig.vicuna_7b())[1]
    assert named(vicuna)["decoder/layers/k_proj/kernel"].shape == (32, 4096, 4096)
    assert named(vicuna)["embed_tokens"].shape == (32000, 4096)
    assert MovaConfig.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert count_parameters(MovaConfig.tiny()) < 1e6
