"""Where patches and tokens are: learned positions, frames, and the three axes of M-RoPE. On the host, in NumPy.

A grid is (frames, rows, columns) in patches; `merge` is the side of a block of patches that becomes one token.

Axis letters: N patches, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Grid = tuple[int, int, int]


class PatchPlaces(NamedTuple):
    """Of each patch: its frame, row and column there, the four learned positions around it, and their weights."""

    frame: Int[np.ndarray, "N"]
    place: Int[np.ndarray, "N 2"]
    corners: Int[np.ndarray, "N 4"]
    shares: Float[np.ndarray, "N 4"]


def patch_places(grids: Sequence[Grid], side: int, merge: int) -> PatchPlaces:
    """The places of the patches of several images, in the order of the processor: block by block.

    Learned positions form a square of `side` x `side` that covers each image from corner to corner; they are resampled
    bilinearly, in float32 as upstream does.
    """
    parts: list[PatchPlaces] = []
    frames = 0
    for number, height, width in grids:
        rows, columns = (_blocks(axis, merge) for axis in np.mgrid[:height, :width])
        below, above, corner_rows = _between(height, side)
        left, right, corner_columns = _between(width, side)
        indices, weights = [], []
        for row, row_share in ((below, 1 - corner_rows), (above, corner_rows)):
            for column, column_share in ((left, 1 - corner_columns), (right, corner_columns)):
                indices.append(row[rows] * side + column[columns])
                weights.append(row_share[rows] * column_share[columns])
        one = PatchPlaces(
            np.zeros_like(rows), np.stack([rows, columns], axis=1), np.stack(indices, axis=1), np.stack(weights, axis=1)
        )
        for _ in range(number):
            parts.append(one._replace(frame=one.frame + frames))
            frames += 1
    joined = PatchPlaces(*(np.concatenate(leaves) for leaves in zip(*parts, strict=True)))
    frame, place, corners = (leaf.astype(np.int32) for leaf in joined[:3])
    return PatchPlaces(frame, place, corners, joined.shares.astype(np.float32))


def _between(size: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `size` places: the learned positions before and after it, and the share of the second."""
    exact = np.linspace(0, side - 1, size, dtype=np.float32) if size > 1 else np.zeros(1, np.float32)
    before = exact.astype(np.int32)
    return before, np.minimum(before + 1, side - 1), exact - before.astype(np.float32)


def _blocks(values: np.ndarray, merge: int) -> np.ndarray:
    """[rows, columns] as one axis: blocks row by row, and row by row inside a block."""
    height, width = values.shape
    blocks = values.reshape(height // merge, merge, width // merge, merge)
    return blocks.transpose(0, 2, 1, 3).reshape(-1)


def tokens_of(grid: Grid, merge: int) -> int:
    """The number of tokens of an image or a video."""
    frames, height, width = grid
    return frames * (height // merge) * (width // merge)


def mrope_positions(
    kinds: Int[np.ndarray, "T"], images: Sequence[Grid], videos: Sequence[Grid], merge: int
) -> tuple[Int[np.ndarray, "3 T"], int]:
    """Positions of time, height and width for a prompt without padding, and the position of the next token.

    A text token advances all three axes. An image's token in row r and column s of its merged grid gets
    (c, c + r, c + s), after which c grows by the longer side; each frame of a video is an image of its own.

    Args:
        kinds: 0 for text, 1 for image tokens, 2 for video tokens.
        images, videos: grids, in the order of the prompt.
        merge: side of a block of patches.
    """
    pending = {1: list(images), 2: [(1, *grid[1:]) for grid in videos for _ in range(grid[0])]}
    positions = np.zeros((3, len(kinds)), np.int32)
    at, start = 0, 0
    while at < len(kinds):
        if kinds[at] == 0:
            positions[:, at] = start
            at, start = at + 1, start + 1
            continue
        _, height, width = pending[int(kinds[at])].pop(0)
        rows, columns = height // merge, width // merge
        row, column = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
        positions[:, at : at + rows * columns] = start + np.stack([np.zeros_like(row), row, column])
        at, start = at + rows * columns, start + max(rows, columns)
    return positions, start
