"""Generator of the pocket scenes: two to six objects on a 4 x 4 grid, drawn as 96 x 96 images.

Every object has a color, a shape, a texture, a size, a printed glyph and a place. A scene is a pure function of
(split, seed, number), so three values determine a bank or a test set on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float, UInt8

GRID = 4  # cells a side
CELL = 24  # pixels a cell
IMAGE = GRID * CELL

COLORS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
SHAPES = ("circle", "rectangle", "triangle", "diamond", "cross")
TEXTURES = ("solid", "striped", "dotted", "checkered")
SIZES = ("small", "medium", "large")
GLYPHS = ("a", "c", "h", "k", "p", "t", "x", "z")
VALUES = {"color": COLORS, "shape": SHAPES, "texture": TEXTURES, "size": SIZES, "glyph": GLYPHS}

SPLITS = ("train", "gate", "reference", "validation", "test", "scene")  # append only: the index is part of the seed

_RGB = np.array(
    [
        (214, 40, 40),
        (40, 160, 60),
        (45, 75, 215),
        (18, 18, 18),
        (128, 128, 128),
        (0, 150, 155),
        (125, 75, 35),
        (235, 205, 40),
    ],
    np.float32,
)
_RADIUS = (6.3, 8.3, 10.6)
_HALF = 14  # half the side of an object's patch
_FONT = {  # five columns by seven rows, one binary number per row
    "a": (0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001),
    "c": (0b01111, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b01111),
    "h": (0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001),
    "k": (0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001),
    "p": (0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000),
    "t": (0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100),
    "x": (0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001),
    "z": (0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111),
}


@dataclass(frozen=True)
class Thing:
    """One object; attributes are indices into `VALUES`, `x` and `y` its center in pixels."""

    color: int
    shape: int
    texture: int
    size: int
    glyph: int
    cell: int
    x: int
    y: int

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID


@dataclass(frozen=True)
class Scene:
    """Objects in reading order, the color of the background, and pixel noise."""

    things: tuple[Thing, ...]
    background: tuple[float, float, float]
    noise: float
    noise_seed: int


@dataclass(frozen=True)
class Camera:
    """Image statistics of a split: number of objects, brightness of the background, its tint, and pixel noise."""

    things: tuple[int, int]
    brightness: tuple[float, float]
    tint: float
    noise: tuple[float, float]


_ANY = Camera(things=(2, 6), brightness=(185, 255), tint=22, noise=(0, 12))
CAMERAS = {
    "train": _ANY,
    "gate": _ANY,
    "reference": Camera(things=(2, 5), brightness=(225, 255), tint=8, noise=(0, 5)),
    "validation": Camera(things=(3, 6), brightness=(185, 225), tint=22, noise=(4, 12)),
    "test": Camera(things=(3, 6), brightness=(185, 225), tint=22, noise=(4, 12)),
    "scene": Camera(things=(3, 6), brightness=(185, 225), tint=22, noise=(4, 12)),
}


def make_scene(split: str, seed: int, number: int) -> Scene:
    """Scene `number` of a split; scenes of different splits or seeds never share a random stream."""
    rng = np.random.default_rng((SPLITS.index(split), seed, number))
    camera = CAMERAS[split]
    count = int(rng.integers(camera.things[0], camera.things[1] + 1))
    cells = np.sort(rng.permutation(GRID * GRID)[:count])
    picks = {name: rng.integers(0, len(values), count) for name, values in VALUES.items()}
    shift = rng.integers(-2, 3, (count, 2))
    things = tuple(
        Thing(
            **{name: int(picked[i]) for name, picked in picks.items()},
            cell=int(cell),
            x=int(cell % GRID * CELL + CELL // 2 + shift[i, 0]),
            y=int(cell // GRID * CELL + CELL // 2 + shift[i, 1]),
        )
        for i, cell in enumerate(cells)
    )
    background = rng.uniform(*camera.brightness) + rng.uniform(-camera.tint, camera.tint, 3)
    red, green, blue = np.clip(background, 0, 255)
    return Scene(
        things,
        (float(red), float(green), float(blue)),
        float(rng.uniform(*camera.noise)),
        int(rng.integers(2**31)),
    )


@cache
def _silhouette(shape: int, size: int) -> Bool[np.ndarray, "28 28"]:
    y, x = np.mgrid[-_HALF:_HALF, -_HALF:_HALF].astype(np.float32)
    r = _RADIUS[size]
    match SHAPES[shape]:
        case "circle":
            return x**2 + y**2 <= r**2
        case "rectangle":
            return (abs(x) <= r) & (abs(y) <= 0.68 * r)
        case "triangle":
            return (y <= 0.85 * r) & (abs(x) <= 0.6 * (y + r))
        case "diamond":
            return abs(x) + abs(y) <= 1.12 * r
        case _:  # cross
            return ((abs(x) <= 0.38 * r) | (abs(y) <= 0.38 * r)) & (abs(x) <= r) & (abs(y) <= r)


@cache
def _accent(texture: int) -> Bool[np.ndarray, "28 28"]:
    y, x = np.mgrid[0 : 2 * _HALF, 0 : 2 * _HALF]
    match TEXTURES[texture]:
        case "striped":
            return y % 4 < 2
        case "dotted":
            return (x % 4 < 2) & (y % 4 < 2)
        case "checkered":
            return (x // 3 + y // 3) % 2 == 0
        case _:  # solid
            return np.zeros(x.shape, bool)


@cache
def _letter(glyph: int) -> Bool[np.ndarray, "7 5"]:
    rows = _FONT[GLYPHS[glyph]]
    return np.array([[row >> (4 - column) & 1 for column in range(5)] for row in rows], bool)


@cache
def _stamp(color: int, shape: int, texture: int, size: int, glyph: int) -> Float[np.ndarray, "28 28 4"]:
    """An object's patch: red, green, blue and opacity."""
    patch = np.zeros((2 * _HALF, 2 * _HALF, 4), np.float32)
    paint = _RGB[color]
    patch[..., :3] = np.where(_accent(texture)[..., None], 0.4 * paint + 0.6 * 250.0, paint)
    patch[..., 3] = _silhouette(shape, size)
    top, left = _HALF - 4, _HALF - 3
    plate = patch[top : top + 9, left : left + 7]  # the glyph is drawn on plain paint, for every texture
    plate[...] = (*paint, 1.0)
    ink = 255.0 if paint.mean() < 140 else 0.0
    plate[1:8, 1:6, :3][_letter(glyph)] = ink
    return patch


def render(scene: Scene) -> UInt8[np.ndarray, "96 96 3"]:
    """The image of a scene: uint8 pixels [96, 96, 3]."""
    margin = _HALF
    canvas = np.empty((IMAGE + 2 * margin, IMAGE + 2 * margin, 3), np.float32)
    canvas[0] = scene.background
    canvas[1:] = canvas[0]  # whole rows, which takes a tenth of the time of single pixels
    for thing in scene.things:
        patch = _stamp(thing.color, thing.shape, thing.texture, thing.size, thing.glyph)
        window = canvas[thing.y : thing.y + 2 * _HALF, thing.x : thing.x + 2 * _HALF]
        np.copyto(window, patch[..., :3], where=patch[..., 3:] > 0)
    image = canvas[margin:-margin, margin:-margin]
    if scene.noise > 0:
        noise = np.random.default_rng(scene.noise_seed).standard_normal(image.shape, dtype=np.float32)
        noise *= scene.noise
        noise += image
        image = noise
    np.rint(image, out=image)
    return image.clip(0, 255, out=image).astype(np.uint8)
