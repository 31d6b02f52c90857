"""The mapping from llama3-mova-8b's tensors to our parameters, and the converter of `r2t2 convert mova`."""

from __future__ import annotations

import re

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.mapping import Leaf, linear_leaves
from ports.common.layers.bert import bert_leaves
from ports.common.layers.clip_vit import clip_leaves
from ports.common.layers.decoder import decoder_leaves
from ports.mova.adapter.adapter import adapter_leaves
from ports.mova.config import MovaConfig
from ports.mova.hf_config import FIELDS, PREPROCESSOR, SIDE_FILES, VARY, check_vocabulary, config_from
from ports.mova.modeling import abstract
from ports.mova.towers.biomedclip import biomedclip_leaves
from ports.mova.towers.codetr import codetr_leaves
from ports.mova.towers.dinov2 import dinov2_leaves
from ports.mova.towers.pix2struct import pix2struct_leaves
from ports.mova.towers.sam import sam_leaves, vary_leaves

_TOWERS, _PROJECTOR = "model.vision_tower.vision_tower_{}.", "model.mm_projector."


def leaves(config: MovaConfig) -> dict[str, Leaf]:
    """The source of every parameter, by its path in the NNX state of `MovaNet`."""
    tower = _TOWERS.format
    return {
        "embed_tokens": Leaf(("model.embed_tokens.weight",)),
        **decoder_leaves("decoder", "model.", config.decoder),
        **linear_leaves("lm_head", "lm_head", bias=False),
        **clip_leaves("clip", f"{tower(0)}vision_model.", config.clip_built),
        **dinov2_leaves("dinov2", tower(1), config.dinov2_blocks),
        **vary_leaves("vary", tower(2), config.vary),
        **codetr_leaves("codetr", tower(3), config.codetr),
        **pix2struct_leaves("pix2struct", tower(4), config.pix2struct),
        **pix2struct_leaves("deplot", tower(5), config.deplot),
        **biomedclip_leaves("biomedclip", tower(6), config.biomedclip),
        **sam_leaves("sam", tower(7), config.sam),
        **adapter_leaves("adapter", _PROJECTOR, config.adapter),
        **bert_leaves("bert", f"{_PROJECTOR}text_encoder.bert.", config.bert),
    }


def ignored(config: MovaConfig) -> tuple[str, ...]:
    """Upstream names that are known but not read, as regular expressions for whole names.

    Rotary tables, which are computed; norms, heads and tokens which the forward pass does not use; blocks of CLIP and
    DINOv2 after the hidden state that is used.
    """
    clip, dinov2, codetr, biomedclip = (re.escape(_TOWERS.format(number)) for number in (0, 1, 3, 6))
    projector = re.escape(_PROJECTOR)
    unread = [
        *(rf"{clip}vision_model\.encoder\.layers\.{n}\..+" for n in range(config.clip_blocks, config.clip.layers)),
        *(rf"{dinov2}encoder\.layer\.{n}\..+" for n in range(config.dinov2_blocks, config.dinov2.layers)),
    ]
    return (
        r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        rf"{clip}vision_model\.post_layernorm\.(weight|bias)",
        rf"{clip}vision_model\.embeddings\.position_ids",
        rf"{dinov2}embeddings\.mask_token",
        rf"{dinov2}layernorm\.(weight|bias)",
        rf"{codetr}(rope_win|rope_glb|blocks\.\d+\.attn\.rope)\.freqs_(cos|sin)",
        rf"{biomedclip}head\.proj\.weight",
        rf"{projector}blocks\.\d+\.(self_attn|cross_attn\.\d+)\.rope\.freqs_(cos|sin)",
        rf"{projector}text_encoder\.bert\.(embeddings\.position_ids|pooler\.dense\.(weight|bias))",
        *unread,
    )


converter = Converter(
    port="mova",
    config_from=config_from,
    leaves=leaves,
    ignored=ignored,
    abstract_params=lambda config: abstract(config)[1],
    side_files=SIDE_FILES,
    check_files=check_vocabulary,
    known={"config.json": FIELDS, PREPROCESSOR: VARY},
    hub="zongzhuofan/llama3-mova-8b",
)
