"""Preprocessing: the square of pixels that a network sees, and its settings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import InvalidInputError

RED = (220, 30, 20)


def scene(width=40, height=24):
    """A smooth image."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    return Image.fromarray(
        np.stack([40 + 180 * x, 40 + 180 * y, 200 - 150 * x * y], -1).astype(np.uint8)
    )


def cubic(x):
    """The Catmull-Rom kernel (a = -0.5), which is the bicubic kernel of Pillow."""
    x = np.abs(x)
    return np.where(
        x < 1,
        1.5 * x**3 - 2.5 * x**2 + 1,
        np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0),
    )


def resample(array, axis, start, stop, size, kernel, support):
    """Antialiased resampling of one axis in float64, from the definition."""
    length = array.shape[axis]
    scale = (stop - start) / size
    spread = max(scale, 1.0)
    centres = start + (np.arange(size) + 0.5) * scale
    distance = (np.arange(length) + 0.5)[None] - centres[:, None]
    weights = kernel(distance / spread) * (np.abs(distance) < support * spread)
    weights /= weights.sum(1, keepdims=True)
    return np.moveaxis(np.tensordot(weights, array, (1, axis)), 0, axis)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize, crop_fraction", [("squash", 1.0), ("crop", 1.0), ("crop", 0.8)])
@pytest.mark.parametrize("size", [12, 30, 64])
def test_to_pixels_is_the_resampling_of_its_box(interpolation, resize, crop_fraction, size):
    rng = np.random.default_rng(size)
    array = rng.integers(0, 256, (26, 40, 3), dtype=np.uint8)
    prep = Preprocessing(size, resize, crop_fraction, interpolation)
    pixels = to_pixels(Image.fromarray(array), prep)
    assert pixels.dtype == np.uint8
    kernel, support = (
        (cubic, 2) if interpolation == "bicubic" else (lambda x: np.maximum(1 - np.abs(x), 0), 1)
    )
    box = (0, 0, 40, 26)
    if resize == "crop":
        side = 26 * size / round(size / crop_fraction)
        box = (20 - side / 2, 13 - side / 2, 20 + side / 2, 13 + side / 2)
    expected = resample(array.astype(float), 1, box[0], box[2], size, kernel, support)
    expected = np.clip(np.round(expected), 0, 255)  # Pillow keeps bytes between the two passes
    expected = resample(expected, 0, box[1], box[3], size, kernel, support)
    assert np.abs(pixels - np.clip(expected, 0, 255)).max() <= 1.5
    out = np.zeros((size, size, 3), np.uint8)
    assert to_pixels(Image.fromarray(array), prep, out) is out
    np.testing.assert_array_equal(out, pixels)


def test_large_images_are_reduced_without_visible_loss():
    image = scene(2400, 1800)
    pixels = to_pixels(image, Preprocessing(64)).astype(float)
    reference = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC), float)
    assert np.abs(pixels - reference).max() <= 2


def test_extreme_shapes():
    for size in ((1, 1), (1, 5000), (5000, 1)):
        for resize in ("squash", "crop"):
            pixels = to_pixels(Image.new("RGB", size, RED), Preprocessing(16, resize, 0.875))
            assert (pixels == RED).all()


def test_preprocessing_round_trip():
    prep = Preprocessing(192, "crop", 0.875, "bilinear")
    assert Preprocessing.from_dict(prep.to_dict()) == prep
    assert prep.resized_side == 219
    assert Preprocessing.from_dict({}) == Preprocessing()


@pytest.mark.parametrize(
    "values, named",
    [
        ([], "list"),
        ({"sise": 3}, "sise"),
        ({"size": 0}, "size"),
        ({"size": "224"}, "size"),
        ({"size": True}, "size"),
        ({"resize": "stretch"}, "stretch"),
        ({"crop_fraction": float("nan")}, "crop_fraction"),
        ({"crop_fraction": 0}, "crop_fraction"),
        ({"interpolation": None}, "interpolation"),
    ],
)
def test_preprocessing_refuses(values, named):
    with pytest.raises(InvalidInputError, match=named):
        Preprocessing.from_dict(values)
