"""Goldens of MoVA: their arrays, their configs, our modules filled from their weights.

Sizes come from the json next to each npz; feed-forward widths are derived as upstream derives them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from ports.common.checkpoint.mapping import assemble, named
from ports.common.layers.bert import BertConfig
from ports.common.layers.clip_vit import ClipVit, ClipVitConfig, clip_leaves
from ports.common.layers.decoder import DecoderConfig
from ports.common.layers.stack import scan_layers, traced_keys
from ports.mova.config import (
    AdapterConfig,
    BiomedConfig,
    CoDetrConfig,
    DinoConfig,
    MovaConfig,
    Pix2StructConfig,
    SamConfig,
)
from ports.mova.modeling import abstract
from ports.mova.params import leaves
from ports.mova.towers.biomedclip import BiomedClip, biomedclip_leaves
from ports.mova.towers.codetr import CoDetr, codetr_leaves
from ports.mova.towers.dinov2 import DinoV2, dinov2_leaves
from ports.mova.towers.pix2struct import Pix2Struct, pix2struct_leaves
from ports.mova.towers.sam import Sam, Vary, sam_leaves, vary_leaves

FEATURES, LOGITS, GRADIENTS = 2e-5, 1e-4, 2e-4  # absolute, MOVA.md section 9


@dataclass(frozen=True)
class Recorded:
    """A golden npz and the json next to it."""

    path: Path

    @cached_property
    def facts(self) -> dict:
        return json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))

    @cached_property
    def config(self) -> dict:
        return self.facts["config"]

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path) as file:
            return {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        return {name[2:]: value for name, value in self.arrays.items() if name.startswith("w/")}


def pixels(images: np.ndarray) -> np.ndarray:
    """[B, 3, H, W] to channels last."""
    return images.transpose(0, 2, 3, 1)


def clip_config(c: dict) -> ClipVitConfig:
    return ClipVitConfig(c["image"], c["patch"], c["hidden"], c["layers"], c["heads"], c["mlp"])


def dino_config(c: dict) -> DinoConfig:
    hidden = (int(c["hidden"] * 4 * 2 / 3) + 7) // 8 * 8
    return DinoConfig(c["image"], c["patch"], c["hidden"], c["layers"], c["heads"], hidden)


def sam_config(c: dict) -> SamConfig:
    return SamConfig(
        c["image"], c["patch"], c["dim"], c["depth"], c["heads"], c["out"], c["window"], tuple(c["global_idx"])
    )


def codetr_config(c: dict) -> CoDetrConfig:
    everywhere = tuple(block for block in range(c["depth"]) if block not in c["win_idx"])
    return CoDetrConfig(
        c["inner"], c["patch"], c["dim"], c["depth"], c["heads"], c["out"], c["window"], everywhere,
        out_grid=c["out_grid"],
    )  # fmt: skip


def pix2struct_config(c: dict) -> Pix2StructConfig:
    return Pix2StructConfig(c["hidden"], c["layers"], c["heads"], c["d_kv"], c["d_ff"], c["seq_len"], c["patch"])


def biomed_config(c: dict) -> BiomedConfig:
    return BiomedConfig(c["image"], c["patch"], c["dim"], c["depth"], c["heads"])


def bert_config(c: dict, vocab_size: int) -> BertConfig:
    return BertConfig(
        c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["intermediate_size"], vocab_size,
        c["max_position_embeddings"],
    )  # fmt: skip


def adapter_config(c: dict) -> AdapterConfig:
    return AdapterConfig(
        c["in_channels"], c["num_heads"], c["head_dim"], c["resolution"], c["num_layers"], c["topk"],
        tuple(c["expert_channels"]), c["bert"]["hidden_size"], c["llm_hidden"],
    )  # fmt: skip


def decoder_config(c: dict) -> DecoderConfig:
    return DecoderConfig(
        c["hidden_size"], c["num_hidden_layers"], c["num_attention_heads"], c["num_key_value_heads"],
        c["hidden_size"] // c["num_attention_heads"], c["intermediate_size"], c["rope_theta"], c["rms_norm_eps"],
    )  # fmt: skip


def mova_config(golden: Recorded) -> MovaConfig:
    """The whole model of a golden_mova_llm file."""
    c = golden.config
    words = golden["w/model.mm_projector.text_encoder.bert.embeddings.word_embeddings.weight"]
    return MovaConfig(
        clip=clip_config(c["clip"]),
        dinov2=dino_config(c["dino"]),
        vary=sam_config(c["vary"]),
        codetr=codetr_config(c["codetr"]),
        pix2struct=pix2struct_config(c["p2s"]),
        deplot=pix2struct_config(c["deplot"]),
        biomedclip=biomed_config(c["biomed"]),
        sam=sam_config(c["sam"]),
        adapter=adapter_config(c["adapter"]),
        bert=bert_config(c["adapter"]["bert"], len(words)),
        decoder=decoder_config(c["llama"]),
        vocab_size=c["llama"]["vocab_size"],
        select_layer=c["select_layer"],
        routing_tokens=c["num_routing_tokens"],
        high_size=c["high_image"],
        max_patches=c["p2s_max_patches"],
        end=golden.facts["cases"]["generate"]["eos"],
    )


def params_of(golden: Recorded, config: MovaConfig) -> tuple:
    """Structure and parameters of the whole model."""
    graph, shapes = abstract(config)
    return graph, assemble(leaves(config), golden.weights.__getitem__, shapes)


def filled(make: Callable[[], nnx.Module], leaves: dict, golden: Recorded) -> nnx.Module:
    """What `make` makes, with the golden's weights; the mapping must name every parameter and no other."""
    graph, shapes = nnx.split(nnx.eval_shape(make))
    assert set(named(shapes)) == set(leaves)
    return nnx.merge(graph, assemble(leaves, golden.weights.__getitem__, shapes))


def _fill(make: Callable[[], nnx.Module], leaves: dict, golden: Recorded) -> nnx.Module:
    return filled(lambda: nnx.Dict(tower=make()), leaves, golden)["tower"]


def clip(golden: Recorded) -> ClipVit:
    config = clip_config(golden.config)
    return _fill(lambda: ClipVit(config, traced_keys(0)), clip_leaves("tower", "vision_model.", config), golden)


def dinov2(golden: Recorded) -> DinoV2:
    config = dino_config(golden.config)
    leaves = dinov2_leaves("tower", "", config.layers)
    return _fill(lambda: DinoV2(config, config.layers, traced_keys(0)), leaves, golden)


def sam(golden: Recorded) -> Sam:
    config = sam_config(golden.config)
    return _fill(lambda: Sam(config, traced_keys(0)), sam_leaves("tower", "", config), golden)


def vary(golden: Recorded) -> Vary:
    config = sam_config(golden.config)
    return _fill(lambda: Vary(config, traced_keys(0)), vary_leaves("tower", "", config), golden)


def codetr(golden: Recorded) -> CoDetr:
    config = codetr_config(golden.config)
    return _fill(lambda: CoDetr(config, traced_keys(0)), codetr_leaves("tower", "", config), golden)


def pix2struct(golden: Recorded) -> Pix2Struct:
    config = pix2struct_config(golden.config)
    return _fill(lambda: Pix2Struct(config, traced_keys(0)), pix2struct_leaves("tower", "", config), golden)


def biomedclip(golden: Recorded) -> BiomedClip:
    config = biomed_config(golden.config)
    return _fill(lambda: BiomedClip(config, traced_keys(0)), biomedclip_leaves("tower", "", config), golden)


def states(stacks: list, x: jax.Array, *args) -> list[jax.Array]:
    """The state before the first block and behind every block of some scanned stacks."""
    states_so_far = [x]
    for layers in stacks:
        x, each = scan_layers(layers, lambda layer, x, _: (out := layer(x, *args), out), x)
        states_so_far += list(each)
    return states_so_far


def run(module: nnx.Module, function: Callable, *rows):
    """`function(module, *row)` for every row, compiled once, at highest precision."""
    graph, state = nnx.split(module)

    @jax.jit
    def over(state, *rows):
        return jax.lax.map(lambda row: function(nnx.merge(graph, state), *row), rows)

    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, over(state, *rows))
