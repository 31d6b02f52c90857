"""Recorded inputs of the multimodal Qwen models as samples of one shape, so that all of them share a program."""

import dataclasses
import json
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ports.common.checkpoint.mapping import assemble, check, from_manifest
from ports.common.moe_lm.config import RoutingScope
from ports.common.moe_lm.features import Prompt
from ports.common.qwen_vl.config import QwenVLConfig, vision_config
from ports.common.qwen_vl.geometry import mrope_positions, patch_places, tokens_of
from ports.common.qwen_vl.model import RoutedVL, VLInputs, abstract
from ports.common.qwen_vl.vision import Patches
from ports.qwen3_5_moe import params as qwen3_5_moe_params
from ports.qwen3_5_moe.config import Qwen35MoEConfig
from ports.qwen3_5_moe.config import text_config as qwen3_5_moe_text
from ports.qwen3_vl_moe import params as qwen3_vl_moe_params
from ports.qwen3_vl_moe.config import text_config as qwen3_vl_moe_text

SETS = ("single", "two", "text", "right", "left", "video", "long")
FAMILIES = {
    "qwen3_vl_moe": (qwen3_vl_moe_text, qwen3_vl_moe_params, QwenVLConfig, {}),
    "qwen3_5_moe": (qwen3_5_moe_text, qwen3_5_moe_params, Qwen35MoEConfig, {"deepstack_visual_indexes": []}),
}


class Recorded(NamedTuple):
    described: dict
    arrays: dict
    config: QwenVLConfig
    graph: object
    params: object

    def model(self, scope="last_prompt", layers=None, stop_ids=(-1,)):
        layers = tuple(self.described["layer_sets"]["tail"]) if layers is None else layers
        decoder = self.config.decoder
        return RoutedVL(decoder, RoutingScope(layers, scope, decoder.experts), stop_ids, self.graph)

    def sets(self):
        """Names of the input sets; the long one last."""
        return [name for name in SETS if f"{name}/input_ids" in self.arrays]


@cache
def recorded(path):
    described = json.loads(path.with_suffix(".json").read_text())
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    ids = described["token_ids"]
    text_config, family, kind, vision_defaults = FAMILIES[described["family"]]
    decoder = text_config(described["text_config"])
    config = kind(
        dataclasses.replace(decoder, tied=ids.get("tie_word_embeddings", False)),
        vision_config(described["vision_config"], defaults=vision_defaults),
        ids["image_token_id"],
        ids["video_token_id"],
        (98, 96),
    )
    weights = {name[2:]: leaf for name, leaf in arrays.items() if name.startswith("w/")}
    graph, shapes = abstract(config)
    mapping = family.leaves(config)
    check(mapping, from_manifest({name: (leaf.shape, "float32") for name, leaf in weights.items()}), shapes)
    return Recorded(described, arrays, config, graph, assemble(mapping, weights.__getitem__, shapes))


class Row(NamedTuple):
    """One row of a recorded batch without its padding."""

    tokens: np.ndarray
    kinds: np.ndarray
    positions: np.ndarray  # [3, T], recorded
    start: int  # of the row in the padded batch
    images: list
    videos: list
    pixels: np.ndarray  # patches, in the order of the prompt
    grids: list


def rows_of(golden, name):
    """The rows of a set, with the images and videos that their tokens stand for."""
    arrays = golden.arrays
    source = name if f"{name}/pixel_values" in arrays or name != "left" else "right"
    pools = {
        1: _pool(arrays, source, "pixel_values", "image_grid_thw"),
        2: _pool(arrays, source, "pixel_values_videos", "video_grid_thw"),
    }
    merge, rows = golden.config.vision.merge, []
    for row, mask in enumerate(arrays[f"{name}/attention_mask"]):
        real = np.flatnonzero(mask)
        tokens, kinds = arrays[f"{name}/input_ids"][row, real], arrays[f"{name}/mm_token_type_ids"][row, real]
        used = {1: [], 2: []}
        for kind, pool in pools.items():
            missing = int((kinds == kind).sum())
            while missing > 0:
                grid, patches = pool.pop(0)
                used[kind].append((grid, patches))
                missing -= tokens_of(grid, merge)
        order = [(1, *pair) for pair in used[1]] + [(2, *pair) for pair in used[2]]
        if used[1] and used[2]:  # in the order of the prompt
            first = min(used, key=lambda kind: int(np.argmax(kinds == kind)))
            order.sort(key=lambda entry: entry[0] != first)
        width = golden.config.vision.patch_values
        pixels = np.concatenate([entry[2] for entry in order] or [np.zeros((0, width), np.float32)])
        rows.append(
            Row(
                tokens,
                kinds,
                arrays[f"{name}/position_ids"][:, row, real],
                int(real[0]),
                [grid for grid, _ in used[1]],
                [grid for grid, _ in used[2]],
                pixels,
                [entry[1] for entry in order],
            )
        )
    return rows


def _pool(arrays, name, values, grids):
    if f"{name}/{values}" not in arrays:
        return []
    pixels, pool, start = arrays[f"{name}/{values}"], [], 0
    for grid in arrays[f"{name}/{grids}"].tolist():
        count = int(np.prod(grid))
        pool.append((tuple(grid), pixels[start : start + count]))
        start += count
    return pool


def patches_of(golden, pixels, grids, length):
    """Patches padded to `length`."""
    vision, free = golden.config.vision, length - len(pixels)
    if not grids:
        grids, pixels = [(1, vision.merge, vision.merge)], np.zeros((vision.merge**2, vision.patch_values), np.float32)
        free = length - len(pixels)
    places = patch_places(grids, vision.side, vision.merge)
    padded = [np.pad(leaf, [(0, free)] + [(0, 0)] * (leaf.ndim - 1)) for leaf in (pixels, *places)]
    padded[1][length - free :] = -1
    return Patches(*padded)


def prompt_of(tokens, kinds, positions, next_position, length):
    """A prompt padded on the left to `length`."""
    pad = length - len(tokens)

    def left(leaf):
        return np.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(pad, 0)])

    mask = np.arange(length) >= pad
    leaves = (left(tokens), mask, left(positions), left(kinds > 0), np.asarray(next_position))
    return Prompt(*leaves)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def prompts(golden, name):
    """The prompts of a set without their answers, and their lengths."""
    out = []
    for row, (length, _) in zip(rows_of(golden, name), golden.described["prompt_answer_lengths"][name], strict=True):
        tokens, kinds = row.tokens[:length], row.kinds[:length]
        positions, following = mrope_positions(kinds, row.images, row.videos, golden.config.vision.merge)
        out.append((row, tokens, kinds, positions, following))
    return out


def prompt_inputs(golden, sets, length, patches):
    """The prompts of several sets as one batch of `VLInputs`."""
    batch = []
    for name in sets:
        for row, tokens, kinds, positions, following in prompts(golden, name):
            prompt = prompt_of(tokens, kinds, positions, following, length)
            batch.append(VLInputs(prompt, patches_of(golden, row.pixels, row.grids, patches)))
    return stacked(batch)
