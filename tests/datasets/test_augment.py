"""Views: each operation against its formula in float64, and the random choices."""

from __future__ import annotations

import colorsys
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter1d

from hyperpq.datasets.augment import (
    MILD,
    PAPER,
    Augmentation,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_box,
    make_view,
    view_rng,
)
from hyperpq.errors import InvalidInputError

PLAIN = Augmentation(
    scale=(1.0, 1.0),
    ratio=(1.0, 1.0),
    flip=0.0,
    jitter=(0.0, 0.0, 0.0, 0.0),
    jitter_p=0.0,
    grey_p=0.0,
    blur_p=0.0,
)


def drawn_image(seed=0, width=48, height=48):
    """Coloured patches over noise, with all values and smooth enough to be resized."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    array = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), float)
    noise = rng.normal(0, 6, array.shape)
    return Image.fromarray(np.clip(array + noise, 0, 255).astype(np.uint8))


def grey_of(array):
    return array @ [0.299, 0.587, 0.114]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), st.floats(0.0, 2.0))
def test_brightness_contrast_and_saturation_are_blends(seed, factor):
    image = drawn_image(seed)
    array = np.asarray(image, float)
    grey = grey_of(array)
    for adjust, other, enhancer in [
        (adjust_brightness, 0.0, ImageEnhance.Brightness),
        (adjust_contrast, grey.mean(), ImageEnhance.Contrast),
        (adjust_saturation, grey[..., None], ImageEnhance.Color),
    ]:
        expected = np.clip(factor * array + (1 - factor) * other, 0, 255)
        adjusted = np.asarray(adjust(image, factor), float)
        assert np.abs(adjusted - expected).max() <= 2
        reference = np.asarray(enhancer(image).enhance(factor), float)
        assert np.abs(adjusted - reference).max() <= 1


@pytest.mark.parametrize("turn", [-0.5, -0.1, -0.02, 0.0, 0.05, 0.1, 0.4])
def test_hue_turns_the_colour_circle(turn):
    image = drawn_image(1, 24, 24)
    expected = []
    for pixel in np.asarray(image, float).reshape(-1, 3) / 255:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    turned = np.asarray(adjust_hue(image, turn), float).reshape(-1, 3)
    error = np.abs(turned - np.array(expected) * 255)
    # Hue has 8 bits: a step is 6 levels of a full colour, and both hue and turn are rounded.
    assert error.max() <= 13
    assert error.mean() <= 2.5


def test_plain_view_is_the_resized_image():
    image = drawn_image(2)
    view = make_view(image, PLAIN, 64, view_rng(0, b"", 0))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert view.dtype == np.uint8
    np.testing.assert_array_equal(view, expected)
    flipped = make_view(image, replace(PLAIN, flip=1.0), 64, view_rng(0, b"", 0))
    np.testing.assert_array_equal(flipped, expected[:, ::-1])


def test_grey_view():
    image = drawn_image(3)
    view = make_view(image, replace(PLAIN, grey_p=1.0), 48, view_rng(0, b"", 0))
    assert np.abs(view - grey_of(np.asarray(image, float))[..., None]).max() <= 1


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_blur_is_gaussian_and_in_proportion_to_the_size(sigma):
    image = drawn_image(4, 112, 112)
    blurred = replace(PLAIN, blur_p=1.0, blur_sigma=(sigma, sigma))
    view = make_view(image, blurred, 112, view_rng(0, b"", 0)).astype(float)
    expected = np.asarray(image, float)
    for axis in (0, 1):  # half of 224 pixels, half of sigma
        expected = gaussian_filter1d(expected, sigma / 2, axis=axis, mode="nearest")
    # Pillow builds the Gaussian from three boxes.
    error = np.abs(view - expected)
    assert error.mean() < 0.8
    assert error.max() < 8
    change = np.abs(np.asarray(image, float) - expected)
    assert error.mean() < 0.5 * change.mean()


def test_jitter_draws_the_whole_range_and_every_order():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    only_brightness = replace(PLAIN, jitter=(0.4, 0.0, 0.0, 0.0), jitter_p=1.0)
    views = [make_view(grey, only_brightness, 8, view_rng(1, b"", i)) for i in range(600)]
    factors = np.array([view[0, 0, 0] / 100 for view in views])
    assert 0.59 <= factors.min() < 0.63
    assert 1.37 < factors.max() <= 1.4
    assert abs(factors.mean() - 1) < 0.04
    # Clipped values show which of two operations came first.
    image = Image.fromarray(np.array([[[250, 240, 20]] * 8, [[10, 60, 230]] * 8], np.uint8))
    both = replace(PLAIN, jitter=(0.9, 0.9, 0.0, 0.0), jitter_p=1.0)
    views = {make_view(image, both, 2, view_rng(2, b"", i)).tobytes() for i in range(50)}
    assert len(views) > 40


def test_probabilities():
    image = drawn_image(5)
    original = make_view(image, PLAIN, 48, view_rng(0, b"", 0))
    for change in (
        {"flip": 0.3},
        {"jitter": (0.4, 0.4, 0.4, 0.1), "jitter_p": 0.3},
        {"grey_p": 0.3},
        {"blur_p": 0.3, "blur_sigma": (2.0, 2.0)},
    ):
        augmentation = replace(PLAIN, **change)
        changed = [
            not np.array_equal(make_view(image, augmentation, 48, view_rng(0, b"", i)), original)
            for i in range(400)
        ]
        assert 0.22 < np.mean(changed) < 0.38, change


def test_crops_have_the_announced_area_ratio_and_place():
    rng = np.random.default_rng(0)
    augmentation = replace(PLAIN, scale=(0.3, 0.8), ratio=(3 / 4, 4 / 3))
    boxes = np.array([crop_box((400, 300), augmentation, rng) for _ in range(3000)])
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (left + width <= 400).all()
    assert (top >= 0).all() and (top + height <= 300).all()
    area = width * height / 120_000
    assert 0.295 < area.min() < 0.32
    assert 0.75 < area.max() < 0.805
    ratio = width / height
    assert 0.74 < ratio.min() < 0.77
    assert 1.31 < ratio.max() < 1.35
    free = 400 - width > 20
    place = left[free] / (400 - width[free])
    assert place.min() < 0.01 and place.max() > 0.99
    assert abs(place.mean() - 0.5) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (3, 2), (1000, 10)])
def test_odd_shapes_get_the_central_crop(size):
    for seed in range(20):
        left, top, width, height = crop_box(size, PAPER, np.random.default_rng(seed))
        assert width >= 1 and height >= 1 and left >= 0 and top >= 0
        assert left + width <= size[0] and top + height <= size[1]
    assert make_view(Image.new("RGB", size), PAPER, 16, view_rng(0, b"", 0)).shape == (16, 16, 3)
    left, top, width, height = crop_box((1000, 10), PAPER, np.random.default_rng(0))
    assert (left, top, width, height) == (493, 0, 13, 10)


def test_a_view_depends_on_seed_image_and_number_only():
    image = drawn_image(6)
    views = {
        key: make_view(image, PAPER, 32, view_rng(*key))
        for key in [(0, b"a", 0), (1, b"a", 0), (0, b"b", 0), (0, b"a", 1), (0, b"/1/a", 0)]
    }
    assert len({view.tobytes() for view in views.values()}) == 5
    keys = list(views) * 4
    with ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda key: make_view(image, PAPER, 32, view_rng(*key)), keys[::-1])
        for key, view in zip(keys[::-1], again, strict=True):
            np.testing.assert_array_equal(view, views[key])
    assert view_rng(0, b"", 0).integers(0, 1 << 32, 2).tolist() == [864793763, 489264817]


def test_presets_are_the_published_and_the_milder():
    assert PAPER.to_dict() == {
        "scale": (0.5, 1.0),
        "flip": 0.5,
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "jitter_p": 0.7,
        "grey_p": 0.2,
        "blur_p": 0.5,
        "ratio": (3 / 4, 4 / 3),
        "blur_sigma": (0.1, 2.0),
    }
    assert (MILD.scale, MILD.jitter, MILD.jitter_p) == ((0.6, 1.0), (0.2, 0.2, 0.2, 0.05), 0.5)
    assert (MILD.flip, MILD.grey_p, MILD.blur_p) == (0.5, 0.05, 0.0)
    json.dumps(PAPER.to_dict())


@pytest.mark.parametrize(
    "change",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.5, 1.5)},
        {"scale": (0.9, 0.5)},
        {"ratio": (2.0, 1.0)},
        {"flip": -0.1},
        {"blur_p": float("nan")},
        {"jitter": (0.4, 0.4, 0.4, 0.6)},
        {"jitter": (1.4, 0.4, 0.4, 0.1)},
        {"blur_sigma": (0.0, 1.0)},
    ],
)
def test_bad_values_are_refused(change):
    with pytest.raises(InvalidInputError, match=next(iter(change))):
        replace(PAPER, **change)
