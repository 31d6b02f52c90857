"""A tiny checkpoint in upstream's names: the weights of a recorded golden, tokenizers that know letters."""

import json
from pathlib import Path

from ports.common.checkpoint.convert import VOCABULARY
from tests.goldens import HERE
from tests.ports.mova.recorded import Recorded, mova_config

GOLDEN = HERE / "mova" / "golden_mova_llm_tiny.npz"
SPECIAL = ("<pad>", "<|begin_of_text|>", "<|eot_id|>", "<unk>", "<|start_header_id|>", "<|end_header_id|>")
LETTERS = "ABCDEFGHIabcdefghijklmnopqrstuvwxyz0123456789 \n,.?!:'"


def describe(golden: Recorded) -> dict:
    """`config.json`: the language model in Hugging Face's fields, the towers in ours."""
    config = mova_config(golden)
    ours = config.to_json()
    towers = ("clip", "dinov2", "vary", "codetr", "pix2struct", "deplot", "biomedclip", "sam", "bert")
    return {
        "architectures": ["MovaLlamaForCausalLM"],
        "model_type": "mova",
        "vocab_size": config.vocab_size,
        "hidden_size": config.decoder.width,
        "num_hidden_layers": config.decoder.layers,
        "num_attention_heads": config.decoder.heads,
        "num_key_value_heads": config.decoder.kv_heads,
        "intermediate_size": config.decoder.hidden,
        "rope_theta": config.decoder.theta,
        "rms_norm_eps": config.decoder.eps,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        "mm_vision_select_layer": config.select_layer,
        "image_feat_size": config.adapter.grid,
        "num_projector_layers": config.adapter.blocks,
        "topk_experts": config.adapter.topk,
        "expert_channels": list(config.adapter.expert_widths),
        "num_routing_tokens": config.routing_tokens,
        "r2t2": {
            **{name: ours[name] for name in towers},
            "adapter": ours["adapter"],
            "high_size": config.high_size,
            "max_patches": config.max_patches,
            "end": 2,
            "template": "llama3",
            "routing_length": 4,
            "answer_length": 5,
        },
    }


def write_tokenizer(folder: Path) -> None:
    """One id a letter; BERT's own vocabulary in its format."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    words = {token: number for number, token in enumerate((*SPECIAL, *LETTERS))}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens([token for token in SPECIAL if token != "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>"}))


def write_checkpoint(folder: Path) -> Recorded:
    """The folder as upstream would have it."""
    from safetensors.numpy import save_file

    golden = Recorded(GOLDEN)
    folder.mkdir()
    save_file(golden.weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(describe(golden)), encoding="utf-8")
    (folder / VOCABULARY).write_text("\n".join(golden.facts["vocab"]) + "\n", encoding="utf-8")
    write_tokenizer(folder)
    return golden
