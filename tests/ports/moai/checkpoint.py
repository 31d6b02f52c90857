"""A tiny checkpoint in upstream's names: the weights of a recorded golden in float16, a tokenizer of few words."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from tests.goldens import find_goldens
from tests.ports.moai.goldens import read_golden
from tests.ports.moai.sentences import train_tokenizer


def write_checkpoint(folder: Path):
    """The folder as upstream would have it; the golden, and its tensors as they were written."""
    from safetensors.numpy import save_file

    [path, *_] = [value.values[0] for value in find_goldens("golden_moai_tiny_a.npz")]
    golden = read_golden(path)
    tensors = {n.removeprefix("w/"): v.astype(np.float16) for n, v in golden.arrays.items() if n.startswith("w/")}
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    pieces = train_tokenizer(folder / "tokenizer.model", golden.config.vocab_size)
    ours = {name: value for name, value in dataclasses.asdict(golden.config).items() if name != "vocab_size"}
    described = {
        "hidden_size": golden.config.width,
        "intermediate_size": golden.config.hidden,
        "num_hidden_layers": golden.config.layers,
        "num_attention_heads": golden.config.heads,
        "num_key_value_heads": golden.config.kv_heads,
        "vocab_size": pieces,
        "max_position_embeddings": golden.config.max_positions,
        "rms_norm_eps": golden.config.rms_eps,
        "rope_theta": golden.config.rope_theta,
        "img_size": golden.config.image_size,
        "pad_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "r2t2": ours | {"max_positions": 512},
    }
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    return golden, tensors
