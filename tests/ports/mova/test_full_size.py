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
from ports.common.layers.clip_vit import ClipVit
from ports.common.layers.decoder import KVCache
from ports.common.layers.stack import traced_keys
from ports.mova.batch import ImageViews, MovaAnswer
from ports.mova.config import EXPERTS, MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract, count_parameters, fake_inputs
from ports.mova.params import ignored, leaves
from ports.mova.towers.biomedclip import BiomedClip
from ports.mova.towers.codetr import CoDetr
from ports.mova.towers.dinov2 import DinoV2
from ports.mova.towers.pix2struct import Pix2Struct
from ports.mova.towers.sam import Sam, Vary
from r2t2_jax.errors import R2T2Error
from r2t2_jax.routing import Routing
from tests.flops_checks import flops_of
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


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def counted(function, *arguments):
    """FLOPs of `function(net, *arguments)` at full size."""
    graph, params = abstract(FULL)
    return flops_of(lambda params, *rest: function(nnx.merge(graph, params), *rest), params, *arguments)


def tower_flops(build, *shape):
    """FLOPs of one tower on inputs of a shape."""
    graph, params = nnx.split(nnx.eval_shape(lambda: build(traced_keys(0))))
    return flops_of(lambda params, x: nnx.merge(graph, params)(x), params, shaped(*shape))


def image_tower(tower):
    """FLOPs of a tower by the side of its images."""
    return lambda side: tower_flops(lambda rngs: tower(side, rngs), side, side, 3)


def text_tower(config):
    """FLOPs of Pix2Struct or Deplot by the number of patches."""
    return lambda patches: tower_flops(lambda rngs: Pix2Struct(config, rngs), patches, 2 + 3 * config.patch_size**2)


TOKENS, WIDTH = shaped(FULL.adapter.tokens, FULL.adapter.width), FULL.decoder.width
KEYS = shaped(len(EXPERTS), FULL.adapter.tokens, FULL.adapter.heads, FULL.adapter.head_width)


def project_flops(expert):
    """Keys and values of an expert in one block."""
    source = shaped(FULL.adapter.tokens, FULL.adapter.expert_widths[expert])
    return counted(lambda net, source: net.adapter.blocks[1].expert_kv[expert](source), source)


def read_flops():
    """What one block reads from one expert."""
    return counted(lambda net, x, keys: net.adapter.blocks[1].cross_attend(x, keys, keys), TOKENS, KEYS) // len(EXPERTS)


def finish_flops():
    """Self-attention and feed-forward of one block."""
    return counted(lambda net, x: net.adapter.blocks[1].attend_and_mlp(x), TOKENS)


def feed_forward_flops():
    return counted(lambda net, x: net.adapter.blocks[1].mlp(x), TOKENS)


def gate_flops():
    text = shaped(FULL.adapter.text_width)
    return counted(lambda net, text, x: net.adapter.blocks[0].gate(text, x), text, TOKENS)


def shrink_flops():
    """Both convolutional stages."""
    return counted(lambda net, x: net.adapter.downsample.shrink(x), TOKENS)


def downsample_flops():
    """The stages and the projector behind them."""
    return counted(lambda net, x: net.adapter.downsample(x), TOKENS)


def bert_flops(words):
    tokens, mask = jax.ShapeDtypeStruct((words,), jnp.int32), jax.ShapeDtypeStruct((words,), bool)
    return counted(lambda net, *words: net.encode_question(*words), tokens, mask)


def llm_flops(tokens, context):
    """The language model and its head on tokens, each of which attends to the whole context."""
    config, past = FULL.decoder, context - tokens

    def run(net, x, mask, positions, *cache):
        return net.logits(net.decoder(x, mask, positions, KVCache(*cache) if past else None)[0])

    slots = shaped(config.layers, past, config.kv_heads, config.head_width)
    mask, positions = jax.ShapeDtypeStruct((tokens, context), bool), jax.ShapeDtypeStruct((tokens,), jnp.int32)
    return counted(run, shaped(tokens, WIDTH), mask, positions, *((slots, slots) if past else ()))


def mixing_flops():
    """The adapter without experts."""
    return FULL.adapter.blocks * finish_flops() + downsample_flops()


PARTS = {  # of flops_mova8b_gflop.json by its names: a function of the number in the name
    r"clip_(\d+)": image_tower(lambda side, rngs: ClipVit(sized(FULL.clip, side), rngs)),
    r"dinov2_(\d+)": image_tower(lambda side, rngs: DinoV2(sized(FULL.dinov2, side), FULL.dinov2.layers, rngs)),
    r"vary_(\d+)": image_tower(lambda side, rngs: Vary(sized(FULL.vary, side), rngs)),
    r"sam_h_(\d+)": image_tower(lambda side, rngs: Sam(sized(FULL.sam, side), rngs)),
    r"codetr_(\d+)": image_tower(lambda side, rngs: CoDetr(sized(FULL.codetr, side), rngs)),
    r"pix2struct_L_(\d+)": text_tower(FULL.pix2struct),
    r"deplot_(\d+)": text_tower(FULL.deplot),
    r"biomedclip_(\d+)": image_tower(lambda side, rngs: BiomedClip(sized(FULL.biomedclip, side), rngs)),
    r"adapter_xattn_expert(\d)": lambda expert: project_flops(expert) + read_flops(),
    r"adapter_self_attn": lambda: finish_flops() - feed_forward_flops(),
    r"adapter_mlp": feed_forward_flops,
    r"adapter_gate": gate_flops,
    r"adapter_downsample": shrink_flops,
    r"adapter_out_mlp": lambda: downsample_flops() - shrink_flops(),
    r"adapter_total_no_expert": mixing_flops,
    r"adapter_total_all_experts": lambda: (
        mixing_flops()
        + FULL.adapter.blocks * sum(project_flops(expert) + read_flops() for expert in range(len(EXPERTS)))
    ),
    r"bert_large_(\d+)tok": bert_flops,
    r"llama8b_prefill_(\d+)": lambda n: llm_flops(n, n),
    r"llama8b_decode_1tok_ctx(\d+)": lambda n: llm_flops(1, n),
}


@pytest.mark.parametrize("path", find_goldens("flops_mova8b_gflop*.json"))
def test_golden_flops_by_part(path):
    for name, gflop in json.loads(path.read_text()).items():
        ((pattern, count),) = [item for item in PARTS.items() if re.fullmatch(item[0], name)]
        ours = count(*map(int, re.fullmatch(pattern, name).groups())) / 1e9
        assert ours == pytest.approx(gflop, rel=5e-3), name


# The numbers below were recorded from formulas.


def test_towers_with_their_resampling_have_the_recorded_flops():
    tile, high = FULL.clip.image_size, FULL.high_size
    pixels = 3 * FULL.pix2struct.patch_size**2
    views = ImageViews(shaped(tile, tile, 3), shaped(tile, tile, 3), shaped(high, high, 3), shaped(2025, 2 + pixels))
    assert counted(lambda net, views: net.encode_base(views), views) == 1837470150656
    experts = [counted(lambda net, views, name=name: net.encode_expert(name, views), views) for name in EXPERTS]
    assert experts == [
        3480529745664, 974619082752, 4691373916160, 2479804968960, 497848135680, 35999354880, 5961258991616
    ]  # fmt: skip


def test_adapter_and_language_model_have_the_recorded_flops():
    assert [project_flops(expert) for expert in range(len(EXPERTS))] == [
        14495514624, 4831838208, 2415919104, 14495514624, 7247757312, 7247757312, 2415919104
    ]  # fmt: skip
    assert (read_flops(), finish_flops(), gate_flops()) == (31406948352, 79715893248, 4208640)
    assert (shrink_flops(), downsample_flops()) == (12134776832, 36293967872)
    assert bert_flops(32) == 19428016128
    assert counted(lambda net, x: net.logits(x), shaped(5, WIDTH)) == 5253365760


@pytest.mark.parametrize(
    ("keep", "recorded"),
    [("outputs", (776745779200, 9326235287552)), ("keys", (883046219776, 9219934846976))],
)
def test_encoding_and_an_evaluation_have_the_recorded_flops(keep, recorded):
    config = dataclasses.replace(FULL, keep=keep)
    graph, params = abstract(config)
    model = MovaModel(config, graph)
    tokens, words, length = 70, 24, 8
    inputs = jax.eval_shape(lambda: fake_inputs(config, tokens, words))
    features = jax.eval_shape(model.encode, params, inputs)
    answer = MovaAnswer(jax.ShapeDtypeStruct((length,), jnp.int32), jax.ShapeDtypeStruct((length,), bool))

    def loss(params, features, r, answer):
        return model.answer_loss(params, features, Routing(r), answer)

    evaluation = flops_of(loss, params, features, jax.ShapeDtypeStruct((3, 7), jnp.float32), answer)
    assert (flops_of(model.encode, params, inputs), evaluation) == recorded


def test_the_paper_s_other_variant_and_the_tiny_one_can_be_built():
    vicuna = abstract(MovaConfig.vicuna_7b())[1]
    assert named(vicuna)["decoder/layers/k_proj/kernel"].shape == (32, 4096, 4096)
    assert named(vicuna)["embed_tokens"].shape == (32000, 4096)
    assert MovaConfig.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert count_parameters(MovaConfig.tiny()) < 1e6
