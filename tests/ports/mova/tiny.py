"""MoVA at toy size with random weights, and samples with different first passes."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from ports.mova.batch import IMAGE, MovaAnswer, MovaInputs
from ports.mova.config import MovaConfig
from ports.mova.model import MovaModel
from ports.mova.modeling import abstract

CONFIG = MovaConfig.tiny()
COARSE = np.array([[1, 0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 1, 1, 1, 1]], bool)


def drawn_params(config: MovaConfig, seed: int = 0, spread: float = 1.2):
    """Random parameters: norms around one, the others scaled to preserve the signal's size at `spread` 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = str(path[-1] if hasattr(path[-1], "key") and path[-1].key != "value" else path[-2])
        noise = rng.normal(size=leaf.shape)
        if "scale" in name:
            return jnp.asarray(1 + 0.1 * noise, leaf.dtype)
        inside = np.prod(leaf.shape[-4:-1] if "kernel" in name and len(leaf.shape) == 4 else leaf.shape[-2:-1])
        return jnp.asarray(noise * (0.1 if "bias" in name else spread / np.sqrt(max(inside, 1))), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract(config)[1])


@cache
def tiny(config: MovaConfig = CONFIG) -> tuple[MovaModel, object]:
    """The contract and its parameters."""
    return MovaModel(config, abstract(config)[0]), drawn_params(config)


def drawn_inputs(config: MovaConfig = CONFIG, rows: int = 3, tokens: int = 9, seed: int = 1) -> MovaInputs:
    """Inputs of a few samples; every expert was run, the first pass chose `COARSE`."""
    rng = np.random.default_rng(seed)
    size = config.adapter.tokens
    prompts = rng.integers(3, config.vocab_size, (rows, tokens)).astype(np.int32)
    prompts[:, 3] = IMAGE
    mask = np.ones((rows, tokens), bool)
    mask[-1, -3:] = False
    return MovaInputs(
        base=rng.normal(size=(rows, size, config.adapter.width)).astype(np.float32),
        experts=tuple(rng.normal(size=(rows, size, c)).astype(np.float32) for c in config.expert_widths),
        coarse=COARSE[np.arange(rows) % 3],
        available=np.ones((rows, 7), bool),
        tokens=prompts,
        mask=mask,
        words=rng.integers(0, config.bert.vocab_size, (rows, 6)).astype(np.int32),
        words_mask=np.ones((rows, 6), bool),
    )


def drawn_answers(config: MovaConfig = CONFIG, rows: int = 3, length: int = 4, seed: int = 2) -> MovaAnswer:
    """Answers of one to `length` tokens."""
    tokens = np.random.default_rng(seed).integers(3, config.vocab_size, (rows, length)).astype(np.int32)
    return MovaAnswer(tokens, np.arange(length)[None] < length - np.arange(rows)[:, None] % length)


def row(tree, number):
    """One sample of a batch."""
    return jax.tree.map(lambda leaf: leaf[number], tree)
