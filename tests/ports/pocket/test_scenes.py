"""The pocket world: rendered equally on every machine, and images agree with their scenes."""

import hashlib

import numpy as np
import pytest

from ports.pocket.scenes import CAMERAS, CELL, COLORS, GRID, IMAGE, SPLITS, make_scene, render


@pytest.mark.parametrize(("splits", "digest"), [(SPLITS[:5], "886c96bd44682eab"), (("scene",), "1f9ed46546faaedb")])
def test_images_are_the_same_on_every_machine(splits, digest):
    pixels = np.stack([render(make_scene(split, 0, number)) for split in splits for number in range(5)])
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == digest


def test_splits_and_seeds_share_no_scene():
    scenes = [
        tuple(make_scene(split, seed, number).things)
        for split in SPLITS
        for seed in range(2)
        for number in range(200)
        if len(make_scene(split, seed, number).things) > 2
    ]
    assert len(set(scenes)) == len(scenes)


@pytest.mark.parametrize("split", SPLITS)
def test_a_scene_stays_within_the_ranges_of_its_camera(split):
    camera = CAMERAS[split]
    for number in range(100):
        scene = make_scene(split, 0, number)
        assert camera.things[0] <= len(scene.things) <= camera.things[1]
        assert camera.noise[0] <= scene.noise <= camera.noise[1]
        assert len({thing.cell for thing in scene.things}) == len(scene.things)
        for thing in scene.things:
            assert abs(thing.x - thing.column * CELL - CELL // 2) <= 2
            assert abs(thing.y - thing.row * CELL - CELL // 2) <= 2


def test_occupied_cells_differ_from_the_background_and_empty_ones_do_not():
    for number in range(30):
        scene = make_scene("reference", 0, number)
        contrast = np.abs(render(scene).astype(float) - np.asarray(scene.background))
        cells = contrast.reshape(GRID, CELL, GRID, CELL, 3)[:, 6:-6, :, 6:-6].mean(axis=(1, 3, 4)).ravel()
        occupied = np.isin(np.arange(GRID * GRID), [thing.cell for thing in scene.things])
        assert cells[occupied].min() > 8 > cells[~occupied].max()


def test_paint_has_the_named_color():
    channel = {"red": 0, "green": 1, "blue": 2}
    for number in range(60):
        scene = make_scene("reference", 1, number)
        image = render(scene)
        for thing in scene.things:
            if COLORS[thing.color] in channel:
                plate = image[thing.y - 4 : thing.y + 5, thing.x - 3]  # plain paint left of the glyph
                assert (plate.mean(axis=0).argmax() == channel[COLORS[thing.color]]).all()


def test_an_image_is_96_pixels_square():
    assert render(make_scene("test", 3, 1)).shape == (IMAGE, IMAGE, 3)
