"""Changed copies of an image, for the rivals that look at them (MEMO, TPT, DeYO).

Axis letters: B samples, V views.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jaxtyping import Int, UInt8

from r2t2_jax.contract import Features, Port, Sample
from r2t2_jax.method.forward import encode_batch

Image = UInt8[np.ndarray, "height width 3"]

MOVE = 0.04  # of a side, at most
CONTRAST, BRIGHTNESS = 0.1, 12.0  # at most; of 1, and of 255
NOISE = 6.0  # of 255, at most, as a standard deviation
PATCHES = 4  # a side


def views(image: Image, count: int, rng: np.random.Generator) -> list[Image]:
    """The image and copies of it, slightly moved, lighter or darker, and noisy.

    MEMO and TPT crop, flip, and change colours; an answer about colour, side or number would change with them.
    """
    return [image, *(_changed(image, rng) for _ in range(count - 1))]


def _changed(image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    down, right = (int(rng.integers(-int(MOVE * side), int(MOVE * side) + 1)) for side in (height, width))
    rows = np.clip(np.arange(height) - down, 0, height - 1)  # the edge is repeated
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    moved = image[rows][:, columns].astype(np.float32)
    mean = moved.mean()
    lit = mean + (moved - mean) * (1 + rng.uniform(-CONTRAST, CONTRAST)) + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    noisy = lit + rng.uniform(0, NOISE) * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def shuffled(image: Image, rng: np.random.Generator) -> Image:
    """The image cut into 4 x 4 patches, put together in another order; what does not divide stays where it is."""
    side = [length // PATCHES for length in image.shape[:2]]
    if 0 in side:
        return image
    result = image.copy()
    corners = [(row * side[0], column * side[1]) for row in range(PATCHES) for column in range(PATCHES)]
    for (top, left), source in zip(corners, rng.permutation(len(corners)).tolist(), strict=True):
        from_top, from_left = corners[source]
        patch = image[from_top : from_top + side[0], from_left : from_left + side[1]]
        result[top : top + side[0], left : left + side[1]] = patch
    return result


def encode_augmentations(
    port: Port,
    samples: Sequence[Sample],
    numbers: Int[np.ndarray, "B"],
    which: Literal["views", "shuffled"],
    count: int,
    seed: int,
) -> Features:
    """Features of the samples' questions on changed copies: [B V ...] for `views`, [B ...] for `shuffled`.

    Args:
        port: the model.
        samples: the questions.
        numbers: their places in the test set, on which with the seed alone depends what is drawn.
        which: which copies.
        count: V.
        seed: of the test.
    """
    drawn = []
    for sample, number in zip(samples, numbers.tolist(), strict=True):
        rng = np.random.default_rng((seed, number))
        copies = views(sample.image, count, rng) if which == "views" else [shuffled(sample.image, rng)]
        drawn += [dataclasses.replace(sample, image=copy) for copy in copies]
    features, _ = encode_batch(port.params, port.processor.prepare(port.params, drawn), model=port.model)
    if which == "shuffled":
        return features
    return jax.tree.map(lambda leaf: leaf.reshape(len(samples), count, *leaf.shape[1:]), features)
