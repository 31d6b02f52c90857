"""Hub folders of recorded multimodal models, with a template and a tokenizer of our own, and the way to a report."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

PORTS = Path(__file__).parents[4] / "ports"

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ c.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def upstream_config(golden):
    ids = golden.described["token_ids"]
    text = {**golden.described["text_config"], "hidden_act": "silu"}
    vision = {**golden.described["vision_config"], "hidden_act": "gelu_pytorch_tanh"}
    return {"model_type": golden.described["family"], "text_config": text, "vision_config": vision, **ids}


def write_source(folder, golden, tensors, **config):
    """A hub folder of the recorded model with a template and a tokenizer of our own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(upstream_config(golden) | config))
    (folder / "generation_config.json").write_text('{"eos_token_id": [98, 96]}')
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    preprocessor = {**golden.described["preprocessor"], "do_resize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = [letter for letter in letters if len(letter.encode()) == 1 or letter in "ĠĊ"][:96]
    names = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(plain)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens([f"<|{name}|>" for name in names])
    assert tokenizer.token_to_id("<|image_pad|>") == 101
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def drawn(number, side=24):
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)


def write_fp8(path, arrays):
    """A safetensors file with FP8 tensors, which the NumPy side of safetensors does not write."""
    kinds = {"float8_e4m3fn": "F8_E4M3", "float32": "F32", "bfloat16": "BF16"}
    header, data = {}, b""
    for name, leaf in arrays.items():
        raw = np.ascontiguousarray(leaf).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kinds[str(leaf.dtype)], "shape": list(leaf.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def run_readme(name, source, folder, monkeypatch):
    """Run the commands of a port's README, from a checkpoint to a report, on images that `draw.py` draws."""
    from r2t2_jax.cli.main import main

    pages = {port: (PORTS / port / "README.md").read_text() for port in ("qwen3_vl_moe", name)}
    drawing = re.search(r"<!-- draw.py -->\n```python\n(.*?)```", pages["qwen3_vl_moe"], re.DOTALL)[1]
    commands = re.search(r"<!-- commands -->\n```\n(.*?)```", pages[name], re.DOTALL)[1]
    monkeypatch.chdir(folder)
    for line in commands.replace("SRC", str(source)).splitlines():
        if line.startswith("python draw.py"):
            exec(compile(drawing.replace("qwen3_vl_moe", name), "draw.py", "exec"), {})
        else:
            assert main(shlex.split(line)[1:]) in (0, None)
    assert (folder / "out/run/report.html").is_file()
