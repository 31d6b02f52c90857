"""Memory and time of `r2t2 convert` on a synthetic checkpoint with the parameter names and shapes of a released model.

    python -m benchmarks.convert_memory MANIFEST WORK [--layers 32]      # MoVA-8B
    python -m benchmarks.convert_memory MANIFEST WORK --model qwen3_vl_moe --layers 2 --shard-gb 2

The second one takes tests/golden/qwen3_vl_moe/manifest_qwen3_vl_30b_a3b.json; with --double it has the shapes of
Qwen3-VL-235B-A22B, whose decoder is twice as wide.

MANIFEST is a JSON object {name: [shape, dtype]}, or one with the entries `tensors` {name: {shape, dtype}} and `config`,
the model's config.json. WORK is an empty folder on a disk with twice the checkpoint's size (47 GB for all 32 layers of
MoVA). The conversion runs in a separate process; the peak memory is that of the process as the operating system reports
it, including memory maps. The result goes to benchmarks/results/convert_memory.json, for models other than MoVA to
convert_memory_MODEL.json or convert_memory_MODEL_double.json.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

BLOCK = 2**26
RESULTS = Path(__file__).parent / "results"
LAYER = re.compile(r"model\.(?:language_model\.)?layers\.(\d+)\.")
SIDE_FILES = {
    "tokenizer.json": {},
    "vocab.txt": {},
    "preprocessor_config.json": {},
    "generation_config.json": {"eos_token_id": 0},
}


@dataclass(frozen=True)
class Options:
    """Measure the conversion of a synthetic checkpoint."""

    manifest: Annotated[Path, tyro.conf.Positional]
    """Names, shapes and types of all tensors as JSON."""
    work: Annotated[Path, tyro.conf.Positional]
    """Empty folder for the checkpoint and the model directory, which are removed at the end."""
    layers: int = 32
    """Layers of the language model; fewer layers need less disk space."""
    model: str = "mova"
    """Model to convert: mova, or a model whose manifest has its config."""
    shard_gb: float = 5.0
    """Largest shard of the checkpoint."""
    double: bool = False
    """Double the widths of decoder and experts."""


def main(options: Options) -> None:
    """Write the checkpoint, convert it, and record memory and time."""
    document = json.loads(options.manifest.read_text())
    config = {"num_hidden_layers": options.layers, "torch_dtype": "bfloat16"}
    if "tensors" in document:
        shapes = {name: entry["shape"] for name, entry in document["tensors"].items()}
        config = document["config"]
        config["text_config"]["num_hidden_layers"] = options.layers
        if options.double:
            shapes = doubled(config, shapes)
    else:
        shapes = {name: shape for name, (shape, _) in document.items()}
    sizes = {
        name: 2 * math.prod(shape)
        for name, shape in shapes.items()
        if not (layer := LAYER.match(name)) or int(layer[1]) < options.layers
    }
    source, model = options.work / "source", options.work / "model"
    largest = write_checkpoint(source, {name: shapes[name] for name in sizes}, sizes, int(options.shard_gb * 1e9))
    for name, content in {"config.json": config, **SIDE_FILES}.items():
        (source / name).write_text(json.dumps(content))
    start = time.perf_counter()
    command = [sys.executable, "-m", "r2t2_jax.cli.main", "convert", options.model, str(source), str(model)]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    stored = json.loads((model / "model.json").read_text())["parameters"]
    allowed = max(sizes.values()) if options.model == "mova" else largest
    result = {
        "checkpoint_gb": round(sum(sizes.values()) / 1e9, 2),
        "layers": options.layers,
        "tensors": len(sizes),
        "largest_shard_gb": round(largest / 1e9, 3),
        "largest_tensor_gb": round(max(sizes.values()) / 1e9, 3),
        "largest_parameter_gb": round(max(2 * math.prod(entry["shape"]) for entry in stored.values()) / 1e9, 3),
        "peak_gb": round(peak / 1e9, 3),
        "limit_gb": round(allowed / 1e9 + 2, 3),
        "seconds": round(seconds),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()}",
    }
    shutil.rmtree(options.work)
    name = "convert_memory" if options.model == "mova" else f"convert_memory_{options.model}"
    name += "_double" * options.double
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["peak_gb"] > result["limit_gb"]:
        sys.exit(f"the peak is above {result['limit_gb']} GB")


def doubled(config: dict[str, Any], shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes of a model with twice the widths of decoder and experts, which its config then states."""
    text, vision = config["text_config"], config["vision_config"]
    width, hidden = text["hidden_size"], text["moe_intermediate_size"]
    sizes = {width, hidden, 2 * hidden, text["num_attention_heads"] * text["head_dim"]}
    text |= {name: 2 * text[name] for name in ("hidden_size", "moe_intermediate_size", "num_attention_heads")}
    vision["out_hidden_size"] = 2 * width
    return {name: [2 * size if size in sizes else size for size in shape] for name, shape in shapes.items()}


def write_checkpoint(folder: Path, shapes: dict[str, list[int]], sizes: dict[str, int], shard: int) -> int:
    """Write safetensors shards of at most `shard` bytes with an index; the content repeats one random block.

    Returns:
        Bytes of the largest shard.
    """
    folder.mkdir(parents=True)
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > shard:
            shards.append([])
        shards[-1].append(name)
    block = np.random.default_rng(0).integers(0, 0x4000, BLOCK // 2, np.uint16).tobytes()  # finite as bfloat16
    weight_map = {}
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc="checkpoint") as bar:
        for number, names in enumerate(shards):
            file = folder / f"model-{number:05d}.safetensors"
            weight_map |= dict.fromkeys(names, file.name)
            header, end = {}, 0
            for name in names:
                offsets = [end, end + sizes[name]]
                header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": offsets}
                end += sizes[name]
            encoded_header = json.dumps(header).encode()
            with file.open("wb") as stream:
                stream.write(len(encoded_header).to_bytes(8, "little") + encoded_header)
                while end:
                    end -= stream.write(block[: min(BLOCK, end)])
                    bar.update(min(BLOCK, bar.total - bar.n))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return max(sum(sizes[name] for name in names) for names in shards)


if __name__ == "__main__":
    main(tyro.cli(Options))
