"""A tiny model with every kind of parameter that conversion handles, and its upstream checkpoints."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.mapping import Leaf, linear_leaves
from ports.common.configs import ConfigFields
from ports.common.layers.linear import linear, normal
from ports.common.layers.stack import stack

TOKENIZER = '{"a": "ü", "b":  1}\n'


@dataclass(frozen=True)
class ToyConfig:
    layers: int = 3
    width: int = 4


class Toy(nnx.Module):
    def __init__(self, config: ToyConfig, rngs: nnx.Rngs):
        self.words = normal(rngs, (5, config.width))
        self.scale = nnx.Param(jax.numpy.ones(()))
        self.layers = stack(lambda rngs: linear(config.width, config.width, rngs), config.layers, rngs)


def leaves(config: ToyConfig) -> dict[str, Leaf]:
    return {
        "words": Leaf(("wte.weight",)),
        "scale": Leaf(("scale",)),
        **linear_leaves("layers", "h.{}.fc", layers=config.layers),
    }


PART = ConfigFields("part", taken={"size": "size"}, defaults={"size": 1}, inert=("seed",))
FIELDS = ConfigFields(
    "config.json",
    taken={"layers": "layers", "width": "width"},
    defaults={"layers": 3, "width": 4},
    fixed={"activation": ("none",)},
    inert=("learning_rate",),
    nested={"part": PART},
)
CONVERTER = Converter(
    port="toy",
    config_from=lambda folder: ToyConfig(**FIELDS.read(json.loads((folder / "config.json").read_text()))),
    leaves=leaves,
    ignored=lambda config: (r"h\.\d+\.cache",),
    abstract_params=lambda config: nnx.state(nnx.eval_shape(lambda: Toy(config, nnx.Rngs(0)))),
    tied=lambda config: (("wte.weight", "head.weight"),),
    known={"config.json": FIELDS},
)


def toy_tensors(layers: int = 3, dtype: np.dtype | type = ml_dtypes.bfloat16) -> dict[str, np.ndarray]:
    """Tensors of an upstream checkpoint: mapped ones, a cache to ignore and a tied head."""
    draw = np.random.default_rng(0)
    tensors = {"wte.weight": draw.normal(size=(5, 4)), "scale": np.array(1.5)}
    for layer in range(layers):
        tensors[f"h.{layer}.fc.weight"] = draw.normal(size=(4, 4))
        tensors[f"h.{layer}.fc.bias"] = draw.normal(size=4)
        tensors[f"h.{layer}.cache"] = np.ones(2)
    tensors = {name: np.asarray(value).astype(dtype) for name, value in tensors.items()}
    return tensors | {"head.weight": tensors["wte.weight"]}


def write_source(folder: Path, tensors: dict[str, np.ndarray], kind: str = "shards") -> Path:
    """An upstream folder: `shards` (safetensors with an index), `single` (one file), `bin` (two with an index)."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(TOKENIZER)
    names = sorted(tensors)
    halves = [names[::2], names[1::2]] if kind != "single" else [names]
    suffix = "bin" if kind == "bin" else "safetensors"
    weight_map = {}
    for number, half in enumerate(halves):
        stem = "pytorch_model" if kind == "bin" else "model"
        file = folder / (f"{stem}.{suffix}" if kind == "single" else f"{stem}-{number}.{suffix}")
        weight_map |= dict.fromkeys(half, file.name)
        write_tensors(file, {name: tensors[name] for name in half})
    if kind != "single":
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_tensors(file: Path, tensors: dict[str, np.ndarray]) -> None:
    """One file, by the libraries that upstream uses."""
    if file.suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file({name: np.array(value, order="C") for name, value in tensors.items()}, file)
    else:
        import torch

        torch.save({name: _to_torch(value) for name, value in tensors.items()}, file)


def _to_torch(value: np.ndarray):
    import torch

    if value.dtype == ml_dtypes.bfloat16:
        return torch.tensor(value.view(np.uint16)).view(torch.bfloat16)
    return torch.tensor(value)
