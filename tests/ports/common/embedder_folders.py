"""Tiny upstream folders of every embedder: drawn weights, a config.json, and a tokenizer of single characters."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.mapping import Tensor, linear, named
from tests.ports.common.toy_model import write_tensors

CHARACTERS = "abcdefghijklmnopqrstuvwxyz .:?\nIQ"
QWEN = {
    "model_type": "qwen2", "hidden_act": "silu", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "vocab_size": 40,
    "use_sliding_window": False, "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
NV = {
    "model_type": "nvembed", "padding_side": "right", "mask_type": "b", "is_mask_instruction": True,
    "text_config": {name: QWEN[name] for name in QWEN if name not in ("use_sliding_window", "sliding_window")}
    | {"model_type": "mistral"},
    "latent_attention_config": {
        "model_type": "latent_attention", "latent_dim": 16, "num_latents_value": 6, "num_cross_heads": 2,
        "cross_dim_head": 12, "mult": 4, "hidden_size": 16, "output_normalize": True,
    },
}  # fmt: skip
BERT = {
    "model_type": "bert", "hidden_act": "gelu", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 24, "vocab_size": 40, "max_position_embeddings": 40, "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip


def write_tokenizer(folder: Path, first: str | None, last: str | None, padding: bool = False) -> None:
    """Every character is a token; the file puts the special tokens `first` and `last` around a text."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    special = ["<unk>", "<s>", "</s>", "<|endoftext|>", "[CLS]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*special, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.add_special_tokens(special)
    around = " ".join(part for part in (first, "$A", last) if part)
    pairs = [(token, vocabulary[token]) for token in (first, last) if token]
    tokenizer.post_processor = processors.TemplateProcessing(around, f"{around} $B", pairs)
    if padding:  # as the file of all-MiniLM-L6-v2 has it
        tokenizer.enable_truncation(8)
        tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_weights(folder: Path, converter: Converter, config, dtype, extra: dict[str, tuple[int, ...]]) -> None:
    """Random tensors of the shapes that the port's mapping needs, in the folders that its converter reads."""
    draw = np.random.default_rng(0)
    shapes = upstream_shapes(converter, config) | {name: Tensor(shape, "") for name, shape in extra.items()}
    tensors = {name: (0.3 * draw.normal(size=tensor.shape)).astype(dtype) for name, tensor in shapes.items()}
    for number, place in enumerate(converter.folders):
        head = {name: value for name, value in tensors.items() if name.startswith("linear.")}
        part = head if number else {name: value for name, value in tensors.items() if name not in head}
        (folder / place).mkdir(parents=True, exist_ok=True)
        write_tensors(folder / place / "model.safetensors", part)


def upstream_shapes(converter: Converter, config) -> dict[str, Tensor]:
    """The shapes of the checkpoint's tensors; only linear maps are stored in another layout than the parameters."""
    tensors = {}
    shapes = named(converter.abstract_params(config))
    for path, leaf in converter.leaves(config).items():
        shape = shapes[path].shape[1:] if leaf.stacked else shapes[path].shape
        tensors |= dict.fromkeys(leaf.names, Tensor(shape[::-1] if leaf.change is linear else shape, "float32"))
    return tensors


def write_stella(folder: Path, dtype="float32", **changes) -> Path:
    from ports.embedders.qwen2_embed import Qwen2EmbedConfig, stella

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN | changes))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    (folder / "2_Dense_1024").mkdir()
    dense = {"in_features": 16, "out_features": 12, "bias": True, "activation_function": "torch.nn.Identity"}
    (folder / "2_Dense_1024" / "config.json").write_text(json.dumps(dense))
    write_weights(folder, stella, Qwen2EmbedConfig.from_hf(QWEN, 12, 64), dtype, {"lm_head.weight": (40, 16)})
    write_tokenizer(folder, None, None)
    return folder


def write_gte(folder: Path, dtype="float32") -> Path:
    from ports.embedders.qwen2_embed import Qwen2EmbedConfig, gte_qwen2

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(QWEN))
    config = dataclasses.replace(Qwen2EmbedConfig.from_hf(QWEN, None, 64), prefix="")
    write_weights(folder, gte_qwen2, config, dtype, {})
    write_tokenizer(folder, None, "<|endoftext|>")
    return folder


def write_nv_embed(folder: Path, dtype="float32") -> Path:
    from ports.embedders.nv_embed import NVEmbedConfig, converter

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(NV))
    write_weights(folder, converter, NVEmbedConfig.from_hf(NV), dtype, {})
    write_tokenizer(folder, "<s>", None)
    return folder


def write_minilm(folder: Path, dtype="float32") -> Path:
    from ports.embedders.minilm import MiniLMConfig, converter

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(BERT))
    extra = {"pooler.dense.weight": (16, 16), "pooler.dense.bias": (16,)}
    write_weights(folder, converter, MiniLMConfig.from_hf(BERT), dtype, extra)
    write_tokenizer(folder, "[CLS]", "[SEP]", padding=True)
    return folder


WRITERS = {"minilm": write_minilm, "stella": write_stella, "gte_qwen2": write_gte, "nv_embed": write_nv_embed}
