"""The mapping from MoAI-7B's tensors to our parameters, the converter of `r2t2 convert moai`, merged adapters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ports.common.checkpoint.convert import CONFIG_FILE, Converter, SideFile
from ports.common.checkpoint.mapping import Leaf, as_is, linear_leaves, named, norm_leaves, path_name
from ports.common.configs import read_json
from ports.common.layers.clip_vit import clip_leaves
from ports.moai.config import FIELDS, MoAIConfig
from ports.moai.modeling import abstract

VISION = "vit.vision_tower.vision_model."
_EXPERTS = {  # ours: upstream's
    "img_aux": "CA_img_aux",
    "img_lang": "CA_img_lang",
    "img_self": "SA_img",
    "lang_aux": "CA_lang_aux",
    "lang_img": "CA_lang_img",
    "lang_self": "SA_lang",
}
_PLORA = {  # ours: upstream's
    "qkv_proj": "attention.wqkv",
    "o_proj": "attention.wo",
    "gate_proj": "feed_forward.w1",
    "up_proj": "feed_forward.w3",
    "down_proj": "feed_forward.w2",
}
# In the files but not read: CLIP's last norm, whose output is not used, and tables that are computed.
IGNORED = (rf"{re.escape(VISION)}post_layernorm\.(weight|bias)", rf"{re.escape(VISION)}embeddings\.position_ids")


def leaves(config: MoAIConfig) -> dict[str, Leaf]:
    """The source of every parameter, by its path in the NNX state of `MoAINet`."""
    mixed = config.mixer_layers
    plain = tuple(i for i in range(config.layers) if i not in mixed)
    return {
        "embed_tokens": Leaf(("model.tok_embeddings.weight",), as_is),
        **norm_leaves("norm", "model.norm", bias=False),
        **linear_leaves("lm_head", "output", bias=False),
        **_vision(config),
        **_compressor(config),
        **(_layers("plain", plain) if plain else {}),
        **_layers("mixed", mixed),
        **_mixers(mixed),
    }


def _vision(config: MoAIConfig) -> dict[str, Leaf]:
    tower = clip_leaves("vision/tower", VISION, config.vision)
    table = tower["vision/tower/position_embedding"]
    return {
        **tower,
        "vision/tower/position_embedding": Leaf(table.names, position_table(config)),
        **linear_leaves("vision/fc1", "vision_proj.0"),
        **linear_leaves("vision/fc2", "vision_proj.2"),
    }


def _compressor(config: MoAIConfig) -> dict[str, Leaf]:
    theirs, depth = "moai_compressor.layers.{}", config.compressor_depth
    compressor = {
        "compressor/latents": Leaf(("moai_compressor.latents",), as_is),
        **norm_leaves("compressor/norm", "moai_compressor.norm"),
    }
    for ours, name in (("norm_media", "0.norm_media"), ("norm_latents", "0.norm_latents"), ("mlp_norm", "1.0")):
        compressor |= norm_leaves(f"compressor/layers/{ours}", f"{theirs}.{name}", depth)
    for ours, name in (
        ("q_proj", "0.to_q"),
        ("kv_proj", "0.to_kv"),
        ("o_proj", "0.to_out"),
        ("fc1", "1.1"),
        ("fc2", "1.3"),
    ):
        compressor |= linear_leaves(f"compressor/layers/{ours}", f"{theirs}.{name}", bias=False, layers=depth)
    return compressor


def _layers(ours: str, numbers: tuple[int, ...]) -> dict[str, Leaf]:
    theirs = "model.layers.{}"
    layers = {
        **norm_leaves(f"{ours}/input_layernorm", f"{theirs}.attention_norm", numbers, bias=False),
        **norm_leaves(f"{ours}/post_attention_layernorm", f"{theirs}.ffn_norm", numbers, bias=False),
    }
    for part, name in _PLORA.items():
        for factor, suffix in (("main", "Plora_main"), ("lora_a", "Plora_A"), ("lora_b", "Plora_B")):
            layers |= linear_leaves(f"{ours}/{part}/{factor}", f"{theirs}.{name}.{suffix}", bias=False, layers=numbers)
    return layers


def _mixers(numbers: tuple[int, ...]) -> dict[str, Leaf]:
    theirs, ours = "model.layers.{}.attention.moai_", "mixed/mixer"
    mixers: dict[str, Leaf] = {}
    for gate, name in (("gates/image", "GA_img"), ("gates/language", "GA_lang")):
        mixers |= linear_leaves(f"{ours}/{gate}", f"{theirs}{name}", layers=numbers)
    for expert, name in _EXPERTS.items():
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            for index, factor in enumerate(("down", "up")):
                mixers |= linear_leaves(
                    f"{ours}/{expert}/{part}/{factor}",
                    f"{theirs}{name}.linear_{part[0]}.{index}",
                    bias=False,
                    layers=numbers,
                )
    return mixers


def position_table(config: MoAIConfig) -> Callable[[np.ndarray], np.ndarray]:
    """A function that resizes a position embedding of another grid (a plain CLIP's 24 x 24) to this config's."""
    rows = config.image_tokens + 1

    def change(table: np.ndarray) -> np.ndarray:
        return table if table.shape[0] == rows else resize_positions(table, config.grid)

    return change


def resize_positions(table: Float[np.ndarray, "rows W"], grid: int) -> Float[np.ndarray, "grid*grid+1 W"]:
    """The position embedding at another grid: the class row unchanged, the others resized and rounded to float16."""
    resized = resize_grid(table[1:], grid).astype(np.float16)
    return np.concatenate([table[:1], resized.astype(table.dtype)])


def resize_grid(rows: Float[np.ndarray, "old*old W"], grid: int) -> Float[np.ndarray, "grid*grid W"]:
    """Bicubic resizing as in PyTorch (a = -0.75, no antialiasing, corners not aligned), in float32, same order."""
    old = round(len(rows) ** 0.5)
    square = rows.reshape(old, old, -1).astype(np.float32)
    square = _resize_rows(square.swapaxes(0, 1), grid).swapaxes(0, 1)  # columns first
    return _resize_rows(square, grid).reshape(grid * grid, -1)


def _resize_rows(values: Float[np.ndarray, "old other W"], new: int) -> Float[np.ndarray, "new other W"]:
    """Keys' cubic kernel along the first axis, over four neighbors each; the border is repeated."""
    old, unit = len(values), np.float32(1)
    position = np.float32(old / new) * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    base = np.floor(position)
    t = position - base

    def near(x: np.ndarray) -> np.ndarray:
        return (np.float32(1.25) * x - np.float32(2.25)) * x * x + unit

    def far(x: np.ndarray) -> np.ndarray:
        a = np.float32(-0.75)
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    total = np.zeros((new, *values.shape[1:]), np.float32)
    for offset, weight in ((-1, far(t + unit)), (0, near(t)), (1, near(unit - t)), (2, far(unit - t + unit))):
        index = np.clip(base.astype(int) + offset, 0, old - 1)
        total += values[index] * weight[:, None, None]
    return total


def merge_plora(config: MoAIConfig, params: Any) -> tuple[MoAIConfig, Any]:
    """The same model with merged weights W' = W + (alpha / rank) B A for image rows: fewer products, more memory.

    Args:
        config: with factored adapters.
        params: its parameters.

    Returns:
        The config and the parameters of the merged model; W' is computed in float32 and rounded once.
    """
    merged = dataclasses.replace(config, merged_plora=True)
    parameters = named(params)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
        name = path_name(path)
        if name in parameters:
            return parameters[name]
        part = name.removesuffix("/image/kernel")
        factors = (parameters[f"{part}/{factor}/kernel"] for factor in ("main", "lora_a", "lora_b"))
        main, lora_a, lora_b = (factor.astype(jnp.float32) for factor in factors)
        return (main + config.plora_scale * (lora_a @ lora_b)).astype(leaf.dtype)

    return merged, jax.tree_util.tree_map_with_path(fill, abstract(merged)[1])


def config_from(folder: Path) -> MoAIConfig:
    """The config of an upstream folder's `config.json`.

    Raises:
        R2T2Error: the file is missing or damaged, or describes another model.
    """
    return MoAIConfig.from_hf(read_json(folder / "config.json"))


TOKENIZER_MODEL = SideFile(("tokenizer.model",), "the sentencepiece tokenizer", "it belongs to the checkpoint")

converter = Converter(
    port="moai",
    config_from=config_from,
    leaves=leaves,
    ignored=lambda config: IGNORED,
    abstract_params=lambda config: abstract(config)[1],
    side_files=(CONFIG_FILE, TOKENIZER_MODEL),
    known={"config.json": FIELDS},
    hub="BK-Lee/MoAI-7B",
)
