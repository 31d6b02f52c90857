"""A tiny MoAI with random weights, and random inputs."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from ports.common.checkpoint.mapping import path_name
from ports.moai.batch import MoAIAnswer, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.model import MoAIModel
from ports.moai.modeling import abstract

CONFIG = dataclasses.replace(MoAIConfig.tiny(), remat="none")
TEXT, VERBALIZATION = 9, 5


def drawn_params(config: MoAIConfig, seed: int):
    """Parameters drawn with numpy, without compiling: scales one, biases zero, the others normal / sqrt(fan in)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path_name(path)
        if name.endswith(("scale", "bias")):
            return jnp.full(leaf.shape, float(name.endswith("scale")), leaf.dtype)
        fan_in = leaf.shape[-2] if name.endswith("kernel") else 1
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / np.sqrt(fan_in), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract(config)[1])


@cache
def tiny(config: MoAIConfig = CONFIG):
    """Model and parameters."""
    return MoAIModel(config, abstract(config)[0]), drawn_params(config, seed=1)


def draw_inputs(seed: int, text: int = TEXT, verbalization: int = VERBALIZATION, config: MoAIConfig = CONFIG):
    """One sample: two text tokens before the image, the others after it."""
    rng = np.random.default_rng(seed)
    size = config.image_size
    return MoAIInputs(
        image=jnp.asarray(rng.integers(0, 256, (size, size, 3)), jnp.uint8),
        segments=jnp.asarray(rng.integers(0, 4, (size, size)), jnp.uint8),
        tokens=jnp.asarray(rng.integers(3, config.vocab_size, text), jnp.int32),
        mask=jnp.ones(text, bool),
        before_image=jnp.arange(text) < 2,
        language=jnp.ones(text, bool),
        verbalization=jnp.asarray(rng.integers(3, config.vocab_size, verbalization), jnp.int32),
        verbalization_mask=jnp.ones(verbalization, bool),
    )


def answer_of(*tokens: int, length: int = 3):
    padded = np.full(length, CONFIG.pad_id)
    padded[: len(tokens)] = tokens
    return MoAIAnswer(jnp.asarray(padded, jnp.int32), jnp.arange(length) < len(tokens))
