"""Memory and time of `r2t2 convert` on a synthetic checkpoint with the parameter names and shapes of MoVA-8B.

    python -m benchmarks.convert_memory MANIFEST WORK [--layers 32]

MANIFEST is a JSON object {name: [shape, dtype]}. WORK is an empty folder on a disk with twice the checkpoint's size
(47 GB for all 32 layers). The conversion runs in a separate process; the peak memory is that of the process as the
operating system reports it, including memory maps. The result goes to benchmarks/results/convert_memory.json.
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
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

SHARD = 5 * 10**9
BLOCK = 2**26
RESULTS = Path(__file__).parent / "results" / "convert_memory.json"
LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Options:
    """Measure the conversion of a synthetic MoVA-8B."""

    manifest: Annotated[Path, tyro.conf.Positional]
    """{name: [shape, dtype]} as JSON."""
    work: Annotated[Path, tyro.conf.Positional]
    """Empty folder for the checkpoint and the model directory, which are removed at the end."""
    layers: int = 32
    """Layers of the language model; fewer layers need less disk space."""


def main(options: Options) -> None:
    """Write the checkpoint, convert it, and record memory and time."""
    manifest: dict[str, tuple[list[int], str]] = json.loads(options.manifest.read_text())
    sizes = {
        name: 2 * math.prod(shape)
        for name, (shape, _) in manifest.items()
        if not (layer := LAYER.match(name)) or int(layer[1]) < options.layers
    }
    source, model = options.work / "source", options.work / "model"
    write_checkpoint(source, {name: manifest[name][0] for name in sizes}, sizes)
    (source / "config.json").write_text(json.dumps({"num_hidden_layers": options.layers, "torch_dtype": "bfloat16"}))
    for name in ("tokenizer.json", "vocab.txt"):
        (source / name).write_text("{}")
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "r2t2_jax.cli.main", "convert", "mova", str(source), str(model)], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    stored = json.loads((model / "model.json").read_text())["parameters"]
    result = {
        "checkpoint_gb": round(sum(sizes.values()) / 1e9, 2),
        "layers": options.layers,
        "tensors": len(sizes),
        "largest_tensor_gb": round(max(sizes.values()) / 1e9, 3),
        "largest_parameter_gb": round(max(2 * math.prod(entry["shape"]) for entry in stored.values()) / 1e9, 3),
        "peak_gb": round(peak / 1e9, 3),
        "limit_gb": round(max(sizes.values()) / 1e9 + 2, 3),
        "seconds": round(seconds),
        "machine": f"{os.cpu_count()} CPU cores, {platform.system()}",
    }
    shutil.rmtree(options.work)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if result["peak_gb"] > result["limit_gb"]:
        sys.exit("the peak is above the largest tensor plus 2 GB")


def write_checkpoint(folder: Path, shapes: dict[str, list[int]], sizes: dict[str, int]) -> None:
    """Write safetensors shards of at most 5 GB with an index; the content repeats one random block."""
    folder.mkdir(parents=True)
    shards: list[list[str]] = [[]]
    for name in shapes:
        if shards[-1] and sum(sizes[other] for other in shards[-1]) + sizes[name] > SHARD:
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


if __name__ == "__main__":
    main(tyro.cli(Options))
