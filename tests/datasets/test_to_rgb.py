"""Conversion to RGB: the same in bands as at once, and the same after a reduction."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hyperpq.datasets import decode, to_rgb
from hyperpq.datasets.decode import full_size, open_image
from hyperpq.datasets.decode_memory import bytes_of_webp, bytes_to_decode, webp_size
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import ImageError


def images(width, height, seed=0):
    """An image of every kind that decoders return, by name."""
    rng = np.random.default_rng(seed)
    rgba = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    palette = Image.fromarray(rgba[..., 0] % 16, "P")
    palette.putpalette(rng.integers(0, 256, 48, dtype=np.uint8).tobytes())
    by_index, by_bytes, grey, colour = (
        *(palette.copy(), palette.copy()),
        *(Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., :3])),
    )
    by_index.info["transparency"] = 3
    by_bytes.info["transparency"] = bytes(range(0, 256, 16))
    grey.info["transparency"] = int(rgba[0, 0, 0])
    colour.info["transparency"] = tuple(rgba[0, 0, :3].tolist())
    float_ = rng.normal(size=(height, width)).astype(np.float32) * 1000
    float_[0, 0] = np.nan
    return {
        "RGB": Image.fromarray(rgba[..., :3]),
        "RGBA": Image.fromarray(rgba),
        "LA": Image.fromarray(rgba).convert("LA"),
        "La": Image.fromarray(rgba).convert("LA").convert("La"),
        "RGBa": Image.fromarray(rgba).convert("RGBa"),
        "L": Image.fromarray(rgba[..., 0]),
        "1": Image.fromarray(rgba[..., 0]).convert("1"),
        "CMYK": Image.frombytes("CMYK", (width, height), rgba.tobytes()),
        "YCbCr": Image.fromarray(rgba[..., :3]).convert("YCbCr"),
        "P": palette,
        "P, one index transparent": by_index,
        "P, levels of transparency": by_bytes,
        "L, one grey transparent": grey,
        "RGB, one colour transparent": colour,
        "I;16": Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16)),
        "I": Image.fromarray(rng.integers(-9, 10**6, (height, width), dtype=np.int32)),
        "F": Image.fromarray(float_),
    }


@pytest.mark.parametrize("name", images(2, 2))
@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 7), st.integers(1, 300))
def test_bands_change_nothing(name, width, height, factor, band):
    image = images(width, height)[name]
    whole = to_rgb.to_rgb(image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_rgb, "_BAND_PIXELS", band)
        np.testing.assert_array_equal(np.asarray(to_rgb.to_rgb(image)), np.asarray(whole))
        small = to_rgb.to_rgb(image, factor)
    assert small.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(small), np.asarray(whole.reduce(factor)))


def test_unknown_mode():
    with pytest.raises(ImageError, match="colour mode LAB is not supported"):
        to_rgb.to_rgb(Image.new("LAB", (2, 2)))


def photo(width, height, mode):
    """Smooth areas, edges and fine grain."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(0)
    values = 90 + 60 * np.sin(x / 97) + 40 * (y // 211 % 2) + rng.normal(0, 12, (height, width))
    rgb = np.stack([values, values[::-1], 255 - values], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_large_images_are_reduced_first(monkeypatch, mode, orientation):
    """Down to twice the size that the network sees, so that it sees nearly the same."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    photo(1500, 1100, mode).save(buffer, "PNG", exif=exif)
    prep = Preprocessing(112)
    plain = open_image(buffer, shrink_to=prep.decode_side)
    monkeypatch.setattr(decode, "_LARGE", 10**6)
    reduced = open_image(buffer, shrink_to=prep.decode_side)
    assert full_size(reduced) == full_size(plain) == plain.size
    assert min(reduced.size) == -(-1100 // 4)
    assert open_image(buffer).size == plain.size
    difference = to_pixels(reduced, prep).astype(float) - to_pixels(plain, prep)
    assert np.abs(difference).mean() < 1.5
    assert np.abs(difference).max() < 16


def test_images_up_to_32_megapixels_are_not_reduced():
    assert decode._reduction((8000, 4000), 10) == 1
    assert decode._reduction((8000, 4001), 10) == 400
    assert decode._reduction((8000, 4001), 5000) == 1
    assert decode._reduction((10**8, 1), 10) == 1
    assert decode._reduction((8000, 4001), None) == 1


def test_webp_sizes_are_read_from_the_header():
    for options in ({"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}):
        buffer = io.BytesIO()
        Image.new("RGB", (300, 70)).save(buffer, "WebP", **options)
        assert webp_size(buffer.getvalue()[:64]) == (300, 70)
    assert webp_size(b"RIFF\0\0\0\0WEBPVP8X") is None
    assert webp_size(b"RIFF\0\0\0\0WEBPxxxx" + bytes(40)) is None


def test_memory_is_reserved_before_pixels_are_decoded():
    data = io.BytesIO()
    Image.new("RGBA", (300, 200)).save(data, "PNG")
    asked = []

    def refuse(size):
        asked.append(size)
        raise ImageError("there is no memory")

    cut = io.BytesIO(data.getvalue()[:80])  # its pixels are missing
    with pytest.raises(ImageError, match="no memory"):
        open_image(cut, reserve=refuse)
    assert asked == [300 * 200 * 8]
    for kind, mode, expected in (
        ("PNG", "RGB", 4),
        ("PNG", "L", 5),
        ("JPEG", "RGB", 4),
        ("BMP", "P", 5),
        ("TIFF", "RGB", 8),
    ):
        data, asked = io.BytesIO(), []
        Image.new(mode, (300, 200)).save(data, kind)
        open_image(data, reserve=asked.append)
        assert asked == [300 * 200 * expected], (kind, mode)
    image = Image.new("RGB", (100, 100))
    image.info["progressive"] = 1
    assert bytes_to_decode(image, "JPEG", (800, 800)) == 4 * 100**2 + 6 * 800**2
    assert bytes_to_decode(image, "WebP", (100, 100)) == bytes_of_webp((100, 100))
    assert bytes_to_decode(Image.new("L", (100, 100)), "PNG", (100, 100), 10) == 10_400
