"""A tiny MoAI with drawn weights, and inputs drawn for it."""

import dataclasses
from functools import cache

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ports.moai.batch import MoAIAnswer, MoAIInputs
from ports.moai.config import MoAIConfig
from ports.moai.port import MoAIModel

CONFIG = dataclasses.replace(MoAIConfig.tiny(), remat="none")
TEXT, VERBALISATION = 9, 5


@cache
def tiny(config: MoAIConfig = CONFIG):
    """Model and parameters."""
    graph, params = nnx.split(config.build(seed=1))
    return MoAIModel(config, graph), params


def draw_inputs(seed: int, text: int = TEXT, verbalisation: int = VERBALISATION, config: MoAIConfig = CONFIG):
    """One sample: two words before the image, the others behind it."""
    rng = np.random.default_rng(seed)
    size = config.image_size
    return MoAIInputs(
        image=jnp.asarray(rng.integers(0, 256, (size, size, 3)), jnp.uint8),
        segments=jnp.asarray(rng.integers(0, 4, (size, size)), jnp.uint8),
        tokens=jnp.asarray(rng.integers(3, config.vocab_size, text), jnp.int32),
        mask=jnp.ones(text, bool),
        before_image=jnp.arange(text) < 2,
        language=jnp.ones(text, bool),
        verbalisation=jnp.asarray(rng.integers(3, config.vocab_size, verbalisation), jnp.int32),
        verbalisation_mask=jnp.ones(verbalisation, bool),
    )


def answer_of(*tokens: int, length: int = 3):
    kept = np.full(length, CONFIG.pad_id)
    kept[: len(tokens)] = tokens
    return MoAIAnswer(jnp.asarray(kept, jnp.int32), jnp.arange(length) < len(tokens))
