"""Scenes and questions as arrays for training `pocket:sparse`: patches, and packed questions.

Several questions about a scene share its image tokens: each attends to the image and to itself only, as in a sequence
of its own.

Axis letters: n scenes, R rows of packed questions, S text tokens of a row, I image tokens, P values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ports.common.qwen_vl.geometry import mrope_positions, patch_places
from ports.common.qwen_vl.vision import Patches
from ports.pocket.questions import FAMILIES, write_question
from ports.pocket.scenes import CAMERAS, GRID, IMAGE, VALUES, Camera, Scene, make_scene
from ports.pocket.sparse_config import MERGE, PATCH
from ports.pocket.tokenizer import BEGIN, END, PAD, Tokenizer

TEXT = 64  # tokens of a row
IMAGE_TOKENS = GRID * GRID
ATTRIBUTES = {**{name: len(values) for name, values in VALUES.items()}, "cell": IMAGE_TOKENS}
CROWDED = Camera(things=(4, 16), brightness=(185, 255), tint=22, noise=(0, 12))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PackedQuestions:
    """Rows of questions about one scene each.

    Args:
        scene: of each row.
        tokens: of questions and answers.
        question: the number of a token's question in its row; -1 for padding.
        place: the number of a token in its question.
        target: the next token where it belongs to an answer, otherwise -1.
        family: of the token's question.
    """

    scene: Int[Array, "R"]
    tokens: Int[Array, "R S"]
    question: Int[Array, "R S"]
    place: Int[Array, "R S"]
    target: Int[Array, "R S"]
    family: Int[Array, "R S"]


def pack_questions(
    tokenizer: Tokenizer,
    scenes: Sequence[Scene],
    split: str,
    per_scene: int,
    seed: int,
    families: Sequence[str] = FAMILIES,
) -> PackedQuestions:
    """`per_scene` questions on every scene in the phrasings of `split`, as many in a row as fit."""
    rng = np.random.default_rng((seed, 7))
    rows: list[tuple[int, np.ndarray]] = []
    for number, scene in enumerate(scenes):
        columns: list[np.ndarray] = []
        used, count = 0, 0
        for _ in range(per_scene):
            question = write_question(rng, scene, split, families)
            if question is None:
                continue
            prompt, answer = tokenizer.encode(question.text), tokenizer.encode(question.answer)
            tokens = [*prompt, BEGIN, *answer]
            if used + len(tokens) > TEXT:
                rows.append((number, np.concatenate(columns, axis=1)))
                columns, used, count = [], 0, 0
            target = [*[-1] * len(prompt), *answer, END]
            size, family = len(tokens), FAMILIES.index(question.family)
            columns.append(np.array([tokens, [count] * size, range(size), target, [family] * size]))
            used, count = used + size, count + 1
        if columns:
            rows.append((number, np.concatenate(columns, axis=1)))
    packed = np.full((5, len(rows), TEXT), -1, np.int32)
    packed[0] = PAD
    packed[2] = 0
    for row, (_, columns_of_row) in enumerate(rows):
        packed[:, row, : columns_of_row.shape[1]] = columns_of_row
    return PackedQuestions(jnp.asarray([number for number, _ in rows]), *map(jnp.asarray, packed))


def crowded_scenes(seed: int, count: int) -> list[Scene]:
    """Scenes of the split `train` with 4 to 16 objects, for the tower."""
    usual = CAMERAS["train"]
    CAMERAS["train"] = CROWDED
    try:
        return [make_scene("train", seed, number) for number in range(count)]
    finally:
        CAMERAS["train"] = usual


def attribute_labels(scenes: Sequence[Scene]) -> dict[str, Int[np.ndarray, "n I"]]:
    """For each attribute, the class of the object in each cell; empty cells have the last class."""
    labels = {name: np.full((len(scenes), IMAGE_TOKENS), size, np.int32) for name, size in ATTRIBUTES.items()}
    for row, scene in enumerate(scenes):
        for thing in scene.things:
            for name in VALUES:
                labels[name][row, thing.cell] = getattr(thing, name)
    labels["cell"][:] = np.arange(IMAGE_TOKENS)
    return labels


def to_values(images: UInt8[Array, "B 96 96 3"]) -> Float[Array, "B N P"]:
    """Normalized patches block by block, as the processor cuts them."""
    number = IMAGE // (PATCH * MERGE)
    x = images.astype(jnp.float32) * (2 / 255) - 1
    x = x.reshape(-1, number, MERGE, PATCH, number, MERGE, PATCH, 3).transpose(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(len(images), (IMAGE // PATCH) ** 2, -1)


def patches_of(values: Float[Array, "N P"]) -> Patches:
    """One image's patches with their places."""
    side = IMAGE // PATCH
    places = patch_places([(1, side, side)], side, MERGE)
    return Patches(values, *map(jnp.asarray, places))


def image_positions() -> Int[np.ndarray, "3 I"]:
    """M-RoPE positions of the image tokens; the text begins at `GRID`."""
    side = IMAGE // PATCH
    return mrope_positions(np.ones(IMAGE_TOKENS, int), [(1, side, side)], (), MERGE)[0]


def packed_mask(question: Int[Array, "S"]) -> Bool[Array, "I+S I+S"]:
    """A token attends to itself, to earlier tokens of its own question, and to earlier image tokens."""
    owner = jnp.concatenate([jnp.full(IMAGE_TOKENS, -2), question])
    same = (owner[None] == owner[:, None]) & (owner >= 0)[None]
    return jnp.tril((owner == -2)[None] | same) | jnp.eye(len(owner), dtype=bool)
