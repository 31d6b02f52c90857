"""Images, prompts and tokens of Qwen3-VL-MoE against the recorded processor."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from ports.common.moe_lm.chat import Chat, ChatTokenizer
from ports.common.qwen_vl.processing import ImageLimits, QwenVLProcessor, resize, smart_resize, to_patches
from ports.qwen3_vl_moe.config import full_30b_a3b
from r2t2_jax.datasets.images import rgb_pixels
from r2t2_jax.errors import R2T2Error
from tests.goldens import EXTRA, find_goldens

IMAGES = find_goldens("qwen_vl_images.npz")
CONVERSATIONS = sorted(path for folder in EXTRA for path in folder.rglob("conversations.json"))


def limits_of(settings):
    size = settings["size"]
    return ImageLimits(size["shortest_edge"], size["longest_edge"], 2 * settings["patch"])


@pytest.mark.parametrize("path", IMAGES)
def test_resized_images_and_patches_are_the_recorded_ones(path):
    described, arrays = json.loads(path.with_suffix(".json").read_text()), np.load(path)
    for name, image in described["images"].items():
        if f"{name}/png" in arrays.files:
            with Image.open(io.BytesIO(arrays[f"{name}/png"].tobytes())) as opened:
                pixels = rgb_pixels(opened, False, True)
        else:
            pixels = arrays[f"{name}/rgb"]
        assert hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest() == image["rgb_sha256"], name
        for kind, settings in described["settings"].items():
            limits = limits_of(settings)
            resized = resize(pixels, limits)
            values, grid = to_patches(resized, limits, settings["patch"], 2)
            assert list(grid) == image[kind]["grid_thw"], (name, kind)
            assert hashlib.sha256(resized.tobytes()).hexdigest() == image[kind]["resized_sha256"], (name, kind)
            picked = values.reshape(-1)[arrays[f"{name}/{kind}/sample_index"]]
            np.testing.assert_allclose(picked, arrays[f"{name}/{kind}/sample_value"], atol=1e-6, rtol=0)
            if f"{name}/{kind}/pixel_values" in arrays.files:
                np.testing.assert_allclose(values, arrays[f"{name}/{kind}/pixel_values"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("path", IMAGES)
def test_every_recorded_size_is_reproduced(path):
    for factor, fewest, most, height, width, rows, columns in np.load(path)["smart_resize"].tolist():
        limits = ImageLimits(fewest, most, factor)
        if rows < 0:
            with pytest.raises(R2T2Error, match="one side is more than 200 times the other"):
                smart_resize(height, width, limits)
        else:
            assert smart_resize(height, width, limits) == (rows, columns)


@pytest.mark.parametrize("path", CONVERSATIONS, ids=str)
def test_conversations_have_the_recorded_tokens(path):
    """The released template and vocabulary are read where they are, and are not in this repository."""
    template = (path.parent / "chat_template_qwen3_vl.jinja").read_text()
    tokenizer = ChatTokenizer(path.parent, Chat(template, (151_645,)))
    processor = QwenVLProcessor(full_30b_a3b(), tokenizer, ImageLimits(65_536, 16_777_216, 32))
    for conversation in json.loads(path.read_text())["conversations"]:
        if "qwen3_vl" not in conversation["rendered"]:
            continue
        settings = {
            **conversation["kwargs"],
            "tools": conversation["tools"],
            "add_generation_prompt": conversation["add_generation_prompt"],
        }
        text = tokenizer.render(conversation["messages"], **settings)
        assert text == conversation["rendered"]["qwen3_vl"], conversation["name"]
        if conversation.get("expanded_ids_qwen3_vl") and conversation["images"]:
            grids = [tuple(grid) for grid in conversation["image_grid_thw"]]
            tokens = processor.tokens(conversation["messages"], grids, **settings)
            assert tokens == conversation["expanded_ids_qwen3_vl"], conversation["name"]
    for entry in json.loads((path.parent / "texts.json").read_text())["texts"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"]
