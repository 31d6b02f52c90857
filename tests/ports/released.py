"""Tiny checkpoints in the exact layouts of the released folders: shards with an index and all side files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.ports.common.embedder_folders import NV, write_nv_embed
from tests.ports.moai import checkpoint as moai
from tests.ports.mova import checkpoint as mova

VISION_TOWERS = [
    "openai/clip-vit-large-patch14-336", "facebook/dinov2-giant", "experts/vary", "experts/codetr/codetr.pth",
    "google/pix2struct-large", "google/deplot", "experts/BiomedCLIP", "experts/sam/sam_vit_h.pth",
]  # fmt: skip


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2), encoding="utf-8")


def edit(path: Path, changes: dict[str, Any]) -> None:
    put(path, json.loads(path.read_text(encoding="utf-8")) | changes)


def shard(folder: Path, kind: str, count: int) -> None:
    """Replace `model.safetensors` by `count` shards with an index, as transformers saves them."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    stem, suffix = ("pytorch_model", "bin") if kind == "bin" else ("model", "safetensors")
    weight_map = {}
    for number in range(count):
        part = {name: tensors[name].contiguous() for name in names[number::count]}
        file = f"{stem}-{number + 1:05d}-of-{count:05d}.{suffix}"
        weight_map |= dict.fromkeys(part, file)
        if kind == "bin":
            torch.save({name: tensor.to(torch.bfloat16) for name, tensor in part.items()}, folder / file)
        else:
            save_file(part, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    put(folder / f"{stem}.{suffix}.index.json", index)


def write_moai(folder: Path) -> None:
    """MoAI-7B's folder: two safetensors shards in float16, a sentencepiece tokenizer, no code."""
    folder.mkdir(parents=True)
    moai.write_checkpoint(folder)
    changes = {
        "bias": False, "hidden_act": "silu", "initializer_range": 0.02, "max_length": 4096, "model_type": "internlm",
        "rope_scaling": {"factor": 1.0, "type": "dynamic"}, "tie_word_embeddings": False, "torch_dtype": "float32",
        "transformers_version": "4.38.0.dev0", "use_cache": False,
    }  # fmt: skip
    edit(folder / "config.json", changes)
    shard(folder, "safetensors", 2)
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    put(folder / "generation_config.json", generation | {"max_length": 4096, "use_cache": False})
    put(folder / "tokenizer_config.json", {"tokenizer_class": "InternLM2Tokenizer", "padding_side": "right"})
    put(folder / "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"})
    put(folder / "README.md", "# MoAI\n")
    put(folder / ".gitattributes", "*.safetensors filter=lfs\n")


def write_mova(folder: Path, vocabulary: Path) -> None:
    """llama3-mova-8b's folder: three `.bin` shards in bfloat16 and every field of its code. It has no vocabulary."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    mova.write_checkpoint(folder)
    vocabulary.parent.mkdir(parents=True)
    (folder / "vocab.txt").rename(vocabulary)
    changes = {
        "_flash_attn_2_enabled": True, "_name_or_path": "llama3-8b-instruct", "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 128000, "eos_token_id": 128009, "freeze_mm_mlp_adapter": False,
        "ft_vision_tower": True, "ft_vision_tower_last_n_layer": -1, "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None, "initializer_range": 0.02, "max_length": 4096, "max_position_embeddings": 8192,
        "mm_patch_merge_type": "flat", "mm_projector_freeze_text_encoder": True, "mm_projector_lr": None,
        "mm_projector_text_encoder": "google-bert/bert-large-uncased", "mm_projector_type": "mov_adapter",
        "mm_use_im_patch_token": False, "mm_use_im_start_end": False, "mm_vision_select_feature": "patch",
        "mm_vision_tower": VISION_TOWERS, "model_type": "mova", "pretraining_tp": 1, "rope_scaling": None,
        "tie_word_embeddings": False, "tokenizer_model_max_length": 4096, "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16", "transformers_version": "4.37.2", "tune_mm_mlp_adapter": False, "use_cache": True,
        "use_mm_proj": True,
    }  # fmt: skip
    edit(folder / "config.json", changes)
    shard(folder, "bin", 3)
    put(folder / "generation_config.json", {"bos_token_id": 128000, "eos_token_id": 128009, "do_sample": True})
    put(folder / "special_tokens_map.json", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})
    normalization = {
        "crop_size": {"height": 1024, "width": 1024}, "do_center_crop": True, "do_normalize": True, "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4],
        "resample": 3, "size": {"shortest_edge": 1024},
    }  # fmt: skip
    put(folder / "experts" / "vary" / "preprocessor_config.json", normalization)
    for name in ("BiomedCLIP/open_clip_pytorch_model.bin", "codetr/codetr.pth", "vary/pytorch_model.bin"):
        (folder / "experts" / name).parent.mkdir(exist_ok=True)
        (folder / "experts" / name).write_bytes(b"weights that are not read")
    put(folder / "README.md", "# MoVA\n")


def write_nv(folder: Path) -> None:
    """NV-Embed-v2's folder: four safetensors shards, sentence-transformers files, a short `text_config`."""
    write_nv_embed(folder, np.float16)
    text = {name: value for name, value in NV["text_config"].items() if name not in ("hidden_act", "torch_dtype")}
    changes = {
        "text_config": text | {"_name_or_path": "nvidia/NV-Embed-v2", "model_type": "bidir_mistral"},
        "architectures": ["NVEmbedModel"], "add_eos": True, "add_pad_token": True, "hidden_size": 16,
        "auto_map": {"AutoModel": "modeling_nvembed.NVEmbedModel"}, "torch_dtype": "float16",
        "transformers_version": "4.37.2",
    }  # fmt: skip
    edit(folder / "config.json", changes)
    shard(folder, "safetensors", 4)
    put(
        folder / "modules.json",
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
    )
    put(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True})
    put(folder / "sentence_bert_config.json", {"max_seq_length": 4096, "do_lower_case": False})
