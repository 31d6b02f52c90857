"""From the names of MoAI-7B's tensors to our parameters, the converter behind `r2t2 convert moai`, merged adapters."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ports.common.checkpoint.convert import Converter
from ports.common.checkpoint.mapping import Leaf, as_is, linear_leaves, named, norm_leaves, path_name
from ports.common.layers.clip_vit import clip_leaves
from ports.moai.config import EXPERTS, MoAIConfig
from ports.moai.modeling import abstract
from r2t2_jax.errors import R2T2Error

VISION = "vit.vision_tower.vision_model."
# Upstream's names of the experts, in the order of the routing vector.
_EXPERTS = dict(
    zip(
        EXPERTS,
        ("CA_img_aux", "CA_img_lang", "SA_img", "CA_lang_aux", "CA_lang_img", "SA_lang"),
        strict=True,
    )
)
_PLORA = {
    "qkv": "attention.wqkv",
    "out": "attention.wo",
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
}
# In the file and never used: CLIP's last norm, whose output nobody reads, and tables that are computed.
IGNORED = (rf"{re.escape(VISION)}post_layernorm\.(weight|bias)", rf"{re.escape(VISION)}embeddings\.position_ids")


def leaves(config: MoAIConfig) -> dict[str, Leaf]:
    """Every parameter by its path, and the tensors it is read from."""
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
        **linear_leaves("vision/up", "vision_proj.0"),
        **linear_leaves("vision/out", "vision_proj.2"),
    }


def _compressor(config: MoAIConfig) -> dict[str, Leaf]:
    theirs, depth = "moai_compressor.layers.{}", config.compressor_depth
    found = {
        "compressor/latents": Leaf(("moai_compressor.latents",), as_is),
        **norm_leaves("compressor/norm", "moai_compressor.norm"),
    }
    for ours, name in (("norm_media", "0.norm_media"), ("norm_latents", "0.norm_latents"), ("norm", "1.0")):
        found |= norm_leaves(f"compressor/layers/{ours}", f"{theirs}.{name}", depth)
    for ours, name in (
        ("query", "0.to_q"),
        ("key_value", "0.to_kv"),
        ("out", "0.to_out"),
        ("up", "1.1"),
        ("down", "1.3"),
    ):
        found |= linear_leaves(f"compressor/layers/{ours}", f"{theirs}.{name}", bias=False, layers=depth)
    return found


def _layers(ours: str, numbers: tuple[int, ...]) -> dict[str, Leaf]:
    theirs = "model.layers.{}"
    found = {
        **norm_leaves(f"{ours}/norm1", f"{theirs}.attention_norm", numbers, bias=False),
        **norm_leaves(f"{ours}/norm2", f"{theirs}.ffn_norm", numbers, bias=False),
    }
    for part, name in _PLORA.items():
        for factor, suffix in (("main", "Plora_main"), ("down", "Plora_A"), ("up", "Plora_B")):
            found |= linear_leaves(f"{ours}/{part}/{factor}", f"{theirs}.{name}.{suffix}", bias=False, layers=numbers)
    return found


def _mixers(numbers: tuple[int, ...]) -> dict[str, Leaf]:
    theirs, ours = "model.layers.{}.attention.moai_", "mixed/mixer"
    found: dict[str, Leaf] = {}
    for gate, name in (("gates/image", "GA_img"), ("gates/language", "GA_lang")):
        found |= linear_leaves(f"{ours}/{gate}", f"{theirs}{name}", layers=numbers)
    for expert, name in _EXPERTS.items():
        for part in ("query", "key", "value", "out"):
            for index, factor in enumerate(("down", "up")):
                found |= linear_leaves(
                    f"{ours}/{expert}/{part}/{factor}",
                    f"{theirs}{name}.linear_{part[0]}.{index}",
                    bias=False,
                    layers=numbers,
                )
    return found


def position_table(config: MoAIConfig) -> Callable[[np.ndarray], np.ndarray]:
    """The tower's position table as it is; one of another grid (a plain CLIP's 24 x 24) resized to this one's."""
    rows = config.image_tokens + 1

    def change(table: np.ndarray) -> np.ndarray:
        return table if table.shape[0] == rows else resize_positions(table, config.grid)

    return change


def resize_positions(table: Float[np.ndarray, "rows W"], grid: int) -> Float[np.ndarray, "grid*grid+1 W"]:
    """The class row kept, the others resized as a square grid and rounded through float16, as upstream does."""
    resized = resize_grid(table[1:], grid).astype(np.float16)
    return np.concatenate([table[:1], resized.astype(table.dtype)])


def resize_grid(rows: Float[np.ndarray, "old*old W"], grid: int) -> Float[np.ndarray, "grid*grid W"]:
    """Bicubic as PyTorch's (a = -0.75, no antialiasing, corners not aligned), in float32 and in its order."""
    old = round(len(rows) ** 0.5)
    square = rows.reshape(old, old, -1).astype(np.float32)
    square = _resize_rows(square.swapaxes(0, 1), grid).swapaxes(0, 1)  # columns first
    return _resize_rows(square, grid).reshape(grid * grid, -1)


def _resize_rows(values: Float[np.ndarray, "old other W"], new: int) -> Float[np.ndarray, "new other W"]:
    """Keys' cubic kernel along the first axis, over four neighbours each; the border is repeated."""
    old, one = len(values), np.float32(1)
    place = np.float32(old / new) * (np.arange(new, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    base = np.floor(place)
    t = place - base

    def near(x: np.ndarray) -> np.ndarray:
        return (np.float32(1.25) * x - np.float32(2.25)) * x * x + one

    def far(x: np.ndarray) -> np.ndarray:
        a = np.float32(-0.75)
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    total = np.zeros((new, *values.shape[1:]), np.float32)
    for offset, weight in ((-1, far(t + one)), (0, near(t)), (1, near(one - t)), (2, far(one - t + one))):
        index = np.clip(base.astype(int) + offset, 0, old - 1)
        total += values[index] * weight[:, None, None]
    return total


def merge_plora(config: MoAIConfig, params: Any) -> tuple[MoAIConfig, Any]:
    """The same model with weights W' = W + (alpha / rank) B A for image rows beside W: fewer products, more memory.

    Args:
        config: with factored adapters.
        params: its parameters.

    Returns:
        The config and the parameters of the merged model; W' is computed in float32 and rounded once.
    """
    merged = dataclasses.replace(config, merged_plora=True)
    have = named(params)

    def fill(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
        name = path_name(path)
        if name in have:
            return have[name]
        part = name.removesuffix("/image/kernel")
        main, down, up = (have[f"{part}/{factor}/kernel"].astype(jnp.float32) for factor in ("main", "down", "up"))
        return (main + config.plora_scale * (down @ up)).astype(leaf.dtype)

    return merged, jax.tree_util.tree_map_with_path(fill, abstract(merged)[1])


def config_from(folder: Path) -> MoAIConfig:
    """The config of an upstream folder's `config.json`.

    Raises:
        R2T2Error: the file is missing or damaged, or describes another model.
    """
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise R2T2Error(f"cannot read {folder / 'config.json'}: {error}") from error
    return MoAIConfig.from_hf(described)


converter = Converter(
    port="moai",
    config_from=config_from,
    leaves=leaves,
    ignored=lambda config: IGNORED,
    abstract_params=lambda config: abstract(config)[1],
)
