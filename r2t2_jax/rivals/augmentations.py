"""Augmented images, for the rivals that read them (MEMO, TPT, DeYO).

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
PATCHES = 4  # per side


def views(image: Image, count: int, rng: np.random.Generator) -> list[Image]:
    """The image and augmented copies: slightly shifted, with other contrast and brightness, and noisy.

    MEMO and TPT crop, flip, and change colors, which would change answers about color, side, or number.
    """
    return [image, *(_augment(image, rng) for _ in range(count - 1))]


def _augment(image: Image, rng: np.random.Generator) -> Image:
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
    """The image with its 4 x 4 patches in random order; pixels beyond the last whole patch stay in place."""
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
    """Features of the samples' questions on augmented images: [B V ...] for `views`, [B ...] for `shuffled`.

    Args:
        port: the model.
        samples: the questions.
        numbers: their indices in the test set; random draws depend on them and the seed only.
        which: the kind of augmentation.
        count: number of views V.
        seed: of the random draws.
    """
    augmented = []
    for sample, number in zip(samples, numbers.tolist(), strict=True):
        rng = np.random.default_rng((seed, number))
        image = sample.pixels()
        copies = views(image, count, rng) if which == "views" else [shuffled(image, rng)]
        augmented += [dataclasses.replace(sample, image=copy, original=image) for copy in copies]
    features, _ = encode_batch(port.params, port.processor.prepare(port.params, augmented), model=port.model)
    if which == "shuffled":
        return features
    return jax.tree.map(lambda leaf: leaf.reshape(len(samples), count, *leaf.shape[1:]), features)
