"""Hub folders of recorded multimodal models, with a template and a tokenizer of our own, and samples for them."""

import json

import jax
import numpy as np
from safetensors.numpy import save_file

from r2t2_jax.contract import Sample

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


def check_report(name, port, tmp_path):
    """The way from a converted model to a report, by commands, on drawn images."""
    from PIL import Image

    from r2t2_jax.cli.main import main
    from r2t2_jax.evaluation.encode import encode_questions
    from r2t2_jax.method.forward import generate_batch

    words = ("here", "there", "left", "right")
    samples = [Sample(str(i), drawn(i), f"What is {words[i % 4]} {i % 7}?", ("?",)) for i in range(36)]
    features = jax.tree.map(jax.numpy.asarray, encode_questions(port, samples).queries.features)
    answers = port.processor.decode(np.asarray(generate_batch(port, features, None)))
    lines = []
    for i, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        Image.fromarray(sample.image).save(tmp_path / f"{i}.png")
        split, right = ("reference" if i < 27 else "test"), i % 3 and answer
        line = {"id": str(i), "image": f"{i}.png", "question": sample.question, "split": split}
        lines.append(json.dumps(line | {"answer": answer if right else "none"}))
    questions, bank, run = tmp_path / "questions.jsonl", tmp_path / "bank", tmp_path / "run"
    questions.write_text("\n".join(lines) + "\n")
    for command in (
        ["bank", "build", "--model", name, "--dataset", questions, "--split", "reference", "--features", "--out", bank],
        ["bank", "atlas", bank, "--model", name, "--k", "4", "--points", "4"],
        ["eval", "--model", name, "--bank", bank, "--benchmark", questions, "--split", "test",
         "--strategy", "ngd,atlas,best_fixed", "--preset", "c3po", "--out", run],
        ["report", run],
    ):  # fmt: skip
        assert main([str(part) for part in command]) in (0, None)
    assert (run / "report.html").is_file()
