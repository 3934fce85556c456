"""What is drawn over an image leaves it the same image; what is changed in it does not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hyperpq.datasets.augment import view_rng
from hyperpq.duplicates.calibration import Calibration, Rate
from hyperpq.duplicates.compare import Comparison, compare
from hyperpq.duplicates.copies import make_other_shot
from hyperpq.duplicates.evidence import Evidence

SIDE = 256


def noise(seed: int) -> np.ndarray:
    """Smooth noise of several scales with the contrast of a photo."""
    rng, total = np.random.default_rng(seed), np.zeros((SIDE, SIDE))
    for cells in (4, 9, 20, 45):
        grid = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
        total += np.asarray(grid.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.clip(127 + 32 * total, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.stack([noise(0), noise(0), noise(0) // 2 + 60], axis=2))


def recompressed(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return Image.open(file).convert("RGB")


def text(image, shade, opacity):
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    colour = (shade, shade, shade, opacity)
    ImageDraw.Draw(layer).text((20, 110), "www.example.org", colour, font_size=30)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def sticker(image):
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    pen.ellipse((150, 20, 215, 85), "white")
    pen.rectangle((165, 40, 200, 65), "navy")
    return drawn


def bar(image):
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    pen.rectangle((0, 0, SIDE, 24), "black")
    pen.text((10, 4), "photo by somebody", "white", font_size=14)
    return drawn


DRAWN = {
    "white text": lambda image: text(image, 255, 255),
    "black text": lambda image: text(image, 0, 255),
    "half opaque text": lambda image: text(image, 255, 140),
    "sticker": sticker,
    "bar": bar,
}


@pytest.mark.parametrize("what", DRAWN)
def test_what_is_drawn_over_is_said_and_not_counted(photo, what):
    own, copy = Evidence.of(photo), Evidence.of(recompressed(DRAWN[what](photo)))
    for found in (compare(own, copy), compare(copy, own)):
        assert found.agreement > 0.98
        assert 0.01 < found.covered < 0.15


def pasted(image, other):
    """A part of another image, as bright as what it covers."""
    out = np.asarray(image).astype(np.float32)
    part, place = np.asarray(other, np.float32)[:70, :70], out[60:130, 120:190]
    place[:] = part - part.mean() + place.mean()
    return Image.fromarray(np.clip(out, 0, 255).astype(np.uint8))


def walked(image):
    """Something dark at one place, and at another."""
    pair = []
    for left in (60, 150):
        pixels = np.asarray(image).copy()
        part = pixels[90:170, left : left + 30]
        pixels[90:170, left : left + 30] = np.asarray(image)[10:90, 10:40] // 4
        assert part.shape == (80, 30, 3)
        pair.append(Image.fromarray(pixels))
    return pair


def test_something_else_in_the_image_is_not_drawn(photo):
    other = Image.fromarray(np.stack([noise(5)] * 3, axis=2))
    pairs = [(photo, pasted(photo, other)), (photo, pasted(photo, photo)), walked(photo)]
    for one, two in pairs:
        found = compare(Evidence.of(one), Evidence.of(two))
        assert found.covered == 0
        assert found.agreement < 0.95


def test_a_large_part_is_not_drawn_over(photo):
    covered = photo.copy()
    ImageDraw.Draw(covered).rectangle((40, 40, 200, 140), "white")
    found = compare(Evidence.of(photo), Evidence.of(covered))
    assert found.covered == 0
    assert found.agreement < 0.9


def test_pages_with_other_words_are_not_one_page_that_was_drawn_over():
    pages = []
    for words in ("Invoice 2024-118 for Jane Doe", "Invoice 2025-003 for Max Roe"):
        page = Image.new("RGB", (SIDE, SIDE), "white")
        pen = ImageDraw.Draw(page)
        for line in range(9):
            pen.text((16, 16 + 25 * line), f"The terms of paragraph {line} apply.", 0, font_size=14)
        pen.text((16, 116), words, 0, font_size=15)
        pages.append(Evidence.of(page))
    found = compare(*pages)
    assert found.covered == 0
    assert found.page


def test_a_page_is_the_same_only_if_it_agrees_nearly_everywhere():
    nothing = Rate(0, 0)
    calibration = Calibration(0.95, 12, None, {}, {}, *[nothing] * 4, sample=2)
    page, photo = (Comparison(100, 1.0, 0.97, page=is_page) for is_page in (True, False))
    assert calibration.level(page) == "similar shot"
    assert calibration.level(photo) == "same image"
    assert calibration.level(Comparison(100, 1.0, 0.99, page=True)) == "same image"


def test_icons_are_the_same_only_by_their_bytes():
    icon = Image.new("RGB", (16, 16), "white")
    ImageDraw.Draw(icon).ellipse((2, 2, 13, 13), "red")
    assert compare(Evidence.of(icon), Evidence.of(icon)).agreement == 0
    large = icon.resize((64, 64))
    assert compare(Evidence.of(large), Evidence.of(large)).agreement == 1


def test_shots_are_not_drawn_over(photo):
    own = Evidence.of(photo)
    for fixed in (False, True):
        shots = [make_other_shot(photo, view_rng(1, b"x", n), fixed=fixed) for n in range(4)]
        assert [compare(own, Evidence.of(shot)).covered for shot in shots] == [0.0] * 4


def test_on_a_tripod_only_a_part_moves(photo):
    before = np.asarray(photo, np.float32)
    shot = np.asarray(make_other_shot(photo, view_rng(2, b"x", 0), fixed=True), np.float32)
    gain = float((before * shot).mean() / (before * before).mean())
    is_close = np.abs(shot - gain * before).max(axis=2) < 25
    assert 0.8 < is_close.mean() < 0.995
