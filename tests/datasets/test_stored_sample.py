"""`StoredSample` decodes, copies and pickles like any other sample; how images are decoded."""

import copy
import io
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from r2t2_jax.contract import Sample
from r2t2_jax.datasets.images import decode_image
from r2t2_jax.datasets.record import Record
from r2t2_jax.datasets.samples import StoredSample, to_sample
from tests.datasets.official import png


def test_a_stored_sample_decodes_after_copies_and_changes() -> None:
    sample = StoredSample(png("#102030"), id="1", question="?", answers=("a",))
    assert isinstance(sample, Sample) and "image" not in vars(sample)
    for copied in (sample, copy.copy(sample), pickle.loads(pickle.dumps(sample)), replace(sample, question="!")):
        assert copied.image.shape == (7, 9, 3) and copied.image.dtype == np.uint8
        assert tuple(copied.image[0, 0]) == (16, 32, 48) and copied.answers == ("a",) and copied.style == "plain"
    assert replace(sample, question="!").question == "!"
    with pytest.raises(AttributeError, match="has no attribute 'picture'"):
        sample.picture  # noqa: B018


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RAMPS = {  # 256 levels from black to white
    "16 bits": (np.linspace(0, 65535, 256).astype(np.uint16), ("PNG", "TIFF")),
    "32 bits, 8 used": (np.arange(256).astype(np.int32), ("TIFF",)),
    "32 bits, 16 used": (np.linspace(0, 65535, 256).astype(np.int32), ("TIFF",)),
    "32 bits": (np.linspace(0, 2**31 - 1, 256).astype(np.int32), ("TIFF",)),
    "floats up to 1": (np.linspace(0, 1, 256).astype(np.float32), ("TIFF",)),
    "floats up to 255": (np.arange(256).astype(np.float32), ("TIFF",)),
    "floats up to 65535": (np.linspace(0, 65535, 256).astype(np.float32), ("TIFF",)),
}


@pytest.mark.parametrize(("ramp", "kinds"), RAMPS.values(), ids=RAMPS)
def test_wide_pixels_keep_their_levels(ramp: np.ndarray, kinds: tuple[str, ...]) -> None:
    for kind in kinds:
        pixels = decode_image(encoded(Image.fromarray(ramp[None].repeat(4, axis=0)), kind))
        assert pixels.shape == (4, 256, 3) and pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels[0, :, 0].astype(int), np.arange(256), atol=1)


def test_floats_that_are_no_brightness() -> None:
    values = np.array([[np.nan, -np.inf, -1.0, 0.0, 0.5, 1.0, np.inf]], np.float32)
    assert decode_image(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 0, 0, 0, 128, 255, 255]


def test_own_images_are_decoded_as_shown_and_images_of_benchmarks_as_stored() -> None:
    photo = Image.fromarray(np.arange(96, dtype=np.uint8).reshape(4, 8, 3))
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    turned = encoded(photo, "PNG", exif=exif)
    ink = np.zeros((2, 2, 4), np.uint8)
    ink[0, 0, 3] = 255  # black on a transparent ground
    drawing = encoded(Image.fromarray(ink), "PNG")

    def pixels(image: bytes, dataset: str) -> np.ndarray:
        return to_sample(Record("1", image, "?", ("a",), "line 1"), image, dataset).image

    for own in ("", "jsonl"):
        np.testing.assert_array_equal(pixels(turned, own), np.rot90(np.asarray(photo), -1))
        assert pixels(drawing, own)[..., 0].tolist() == [[0, 255], [255, 255]]
    np.testing.assert_array_equal(pixels(turned, "textvqa"), np.asarray(photo))
    assert not pixels(drawing, "clevr").any()
