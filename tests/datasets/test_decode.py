"""Decoding: every format, mode and defect, by pixel values."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from hyperpq.datasets.decode import full_size, open_image, sniff
from hyperpq.errors import ImageError, ImageUnavailableError

RED, GREEN, BLUE = (220, 30, 20), (20, 200, 40), (30, 40, 210)


def scene(width=40, height=24):
    """A smooth image whose sides differ, so that every rotation changes it."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    return Image.fromarray(
        np.stack([40 + 180 * x, 40 + 180 * y, 200 - 150 * x * y], -1).astype(np.uint8)
    )


def encoded(image, kind, **options):
    if kind == "JPEG" and image.mode == "RGB":
        options = {"quality": 95, "subsampling": 0, **options}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason(source, **options):
    with pytest.raises(ImageError) as caught:
        open_image(source, **options)
    return str(caught.value)


def error_between(image, reference):
    assert image.mode == "RGB"
    assert image.size == reference.size
    return np.abs(np.asarray(image, float) - np.asarray(reference, float)).max()


@pytest.mark.parametrize(
    "kind, options, tolerance",
    [
        ("JPEG", {}, 6),
        ("JPEG", {"progressive": True}, 6),
        ("PNG", {}, 0),
        ("WebP", {"lossless": True}, 0),
        ("WebP", {"quality": 95}, 12),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "tiff_deflate", "big_tiff": True}, 0),
    ],
)
def test_formats_are_found_from_the_content(tmp_path, kind, options, tolerance):
    path = tmp_path / "misnamed.txt"
    path.write_bytes(encoded(scene(), kind, **options))
    assert sniff(path.read_bytes()[:32]) == kind
    assert error_between(open_image(path), scene()) <= tolerance
    with path.open("rb") as file:
        assert error_between(open_image(file), scene()) <= tolerance
        assert not file.closed


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (9, 7), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WebP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert error_between(open_image(io.BytesIO(data)), frames[0]) <= 1


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 20000, 32768, 65406, 65535]], np.uint16)
    expected = np.round(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(values), kind)
        pixels = np.asarray(open_image(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, -1))


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 65535, 32768]], np.int32), [0, 255, 128]),
        (np.array([[0, 255, 7]], np.int32), [0, 255, 7]),
        (np.array([[-100, 0, 104]], np.int32), [0, 125, 255]),
        (np.array([[0, 2_000_000, 1_000_000]], np.int32), [0, 255, 128]),
        (np.array([[0.0, 1.0, 0.25]], np.float32), [0, 255, 64]),
        (np.array([[0.0, 200.0, 255.0]], np.float32), [0, 200, 255]),
        (np.array([[np.nan, np.inf, 1.0]], np.float32), [0, 0, 255]),
        (np.array([[-3.0, -3.0, -3.0]], np.float32), [0, 0, 0]),
    ],
)
def test_integers_and_floats_are_scaled(values, expected):
    data = encoded(Image.fromarray(values), "TIFF")
    pixels = np.asarray(open_image(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels[0, :, 0], expected)
    np.testing.assert_array_equal(pixels[0, :, 2], expected)


def test_12_bit_tiff():
    samples = [0, 4095, 2048, 1024]
    packed = b"".join(
        bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255))
        for a, b in zip(samples[::2], samples[1::2], strict=True)
    )
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1)]
    tags.append((279, len(packed)))
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags))
    data += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    pixels = np.asarray(open_image(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels[0, :, 1], [0, 255, 128, 64])


def test_palette_bilevel_grey_and_their_transparency():
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    palette.putdata([0, 1, 2])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        pixels = np.asarray(open_image(io.BytesIO(encoded(palette, kind))))
        np.testing.assert_array_equal(pixels[0], [RED, GREEN, BLUE])
    for transparency in (1, bytes([255, 0, 255])):
        data = encoded(palette, "PNG", transparency=transparency)
        pixels = np.asarray(open_image(io.BytesIO(data)))
        np.testing.assert_array_equal(pixels[0], [RED, (255, 255, 255), BLUE])
    pixels = np.asarray(open_image(io.BytesIO(encoded(palette, "GIF", transparency=2))))
    np.testing.assert_array_equal(pixels[0], [RED, GREEN, (255, 255, 255)])

    bits = Image.fromarray(np.array([[0, 255, 255, 0]], np.uint8)).convert("1")
    for kind in ("PNG", "BMP", "TIFF"):
        pixels = np.asarray(open_image(io.BytesIO(encoded(bits, kind))))
        np.testing.assert_array_equal(pixels[0, :, 1], [0, 255, 255, 0])

    grey = Image.fromarray(np.array([[0, 90, 255]], np.uint8))
    pixels = np.asarray(open_image(io.BytesIO(encoded(grey, "PNG", transparency=90))))
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 255, 255])
    colours = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    pixels = np.asarray(open_image(io.BytesIO(encoded(colours, "PNG", transparency=BLUE))))
    np.testing.assert_array_equal(pixels[0], [RED, (255, 255, 255)])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WebP"])
def test_alpha_on_white(kind):
    rgba = np.array([[(*RED, 255), (*RED, 0), (*BLUE, 128)]], np.uint8)
    alpha = rgba[..., 3:] / 255
    expected = np.round(rgba[..., :3] * alpha + 255 * (1 - alpha))
    options = {"lossless": True, "exact": True} if kind == "WebP" else {}
    pixels = np.asarray(open_image(io.BytesIO(encoded(Image.fromarray(rgba), kind, **options))))
    assert np.abs(pixels - expected).max() <= 1
    if kind != "WebP":
        la = Image.fromarray(rgba).convert("LA")
        pixels = np.asarray(open_image(io.BytesIO(encoded(la, kind))))
        grey = np.asarray(la, float)[..., :1]
        assert np.abs(pixels - (grey * alpha + 255 * (1 - alpha))).max() <= 1


def test_cmyk_and_inverted_adobe_jpeg():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[:, :8] = (0, 200, 210, 10)  # reddish
    ink[:, 8:] = (210, 40, 0, 60)  # bluish
    expected = (255 - ink[..., :3].astype(float)) * (255 - ink[..., 3:]) / 255
    image = Image.fromarray(ink, mode="CMYK")
    pixels = np.asarray(open_image(io.BytesIO(encoded(image, "TIFF"))), float)
    assert np.abs(pixels - expected).max() <= 2
    data = encoded(image, "JPEG", quality=98)  # Pillow writes the Adobe marker and inverted ink
    assert b"Adobe" in data
    pixels = np.asarray(open_image(io.BytesIO(data)), float)
    assert np.abs(pixels[:, [2, 13]] - expected[:, [2, 13]]).max() <= 12


def test_ycck_jpeg():
    """With transform 2 of the Adobe marker, the same four planes are Y, Cb, Cr and K."""
    planes = np.zeros((16, 16, 4), np.uint8)
    planes[...] = (90, 150, 120, 30)
    data = encoded(Image.fromarray(planes, mode="CMYK"), "JPEG", quality=98)
    at = data.index(b"Adobe") + 11
    data = data[:at] + b"\x02" + data[at + 1 :]
    y, cb, cr, k = (255.0 - planes[0, 0]).tolist()  # the file holds inverted values
    rgb = [
        y + 1.402 * (cr - 128),
        y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
        y + 1.772 * (cb - 128),
    ]
    # C, M and Y of the file are 255 - rgb; inverted, they are rgb, which gives 255 - rgb.
    expected = [(255 - value) * k / 255 for value in rgb]
    pixels = np.asarray(open_image(io.BytesIO(data)), float)
    assert np.abs(pixels[8, 8] - expected).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    upright = scene()
    # The stored image is the one that the viewer's operation turns into the upright one.
    array = np.asarray(upright)
    stored = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: np.rot90(array, 1),
        7: array[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(array, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WebP" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    assert error_between(open_image(io.BytesIO(data)), upright) <= (8 if kind == "JPEG" else 0)


def test_damaged_exif_does_not_spoil_the_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(), "JPEG", exif=exif)
    data = data.replace(b"MM\0*", b"XX\0*").replace(b"II*\0", b"XX\0*")
    assert error_between(open_image(io.BytesIO(data)), scene()) <= 8


def test_shrink_to_keeps_the_shorter_side():
    data = encoded(scene(800, 400), "JPEG", quality=90)
    sizes = {
        shrink_to: open_image(io.BytesIO(data), shrink_to=shrink_to).size
        for shrink_to in (500, 400, 201, 200, 100, 30)
    }
    assert sizes == {
        500: (800, 400),
        400: (800, 400),
        201: (800, 400),
        200: (400, 200),
        100: (200, 100),
        30: (100, 50),
    }
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(scene(800, 400), "JPEG", exif=exif)
    assert open_image(io.BytesIO(data), shrink_to=100).size == (100, 200)
    small = open_image(io.BytesIO(encoded(scene(800, 400), "PNG")), shrink_to=100)
    assert small.size == (800, 400)


def exif_with_thumbnail(thumbnail):
    """An EXIF block whose second directory, as cameras write it, names a JPEG in the block."""
    first = struct.pack(">H HHLHH L", 1, 0x0112, 3, 1, 1, 0, 26)
    start = 8 + len(first) + struct.calcsize(">H HHLL HHLL L")
    second = struct.pack(">H HHLL HHLL L", 2, 0x0201, 4, 1, start, 0x0202, 4, 1, len(thumbnail), 0)
    return b"Exif\0\0MM\0*\0\0\0\x08" + first + second + thumbnail


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP"])
@pytest.mark.parametrize("shrink_to", [None, 24, 60])
def test_an_exif_thumbnail_is_never_taken_for_the_image(kind, shrink_to):
    """It may be older than the pixels, or cropped: an editor need not have renewed it."""
    other = Image.new("RGB", (160, 96), (255, 0, 0))
    exif = exif_with_thumbnail(encoded(other, "JPEG"))
    known = Image.Exif()
    known.load(exif)
    assert known.get_ifd(ExifTags.IFD.IFD1)[0x0202] > 500, "it is there"
    data = encoded(scene(800, 480), kind, exif=exif)
    opened = open_image(io.BytesIO(data), shrink_to=shrink_to)
    assert full_size(opened) == (800, 480)
    assert error_between(opened, scene(*opened.size)) <= 12


def test_heic_and_avif():
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(scene(64, 48)).save(buffer, quality=95)
    assert sniff(buffer.getvalue()[:32]) == "HEIC"
    assert error_between(open_image(buffer), scene(64, 48)) <= 12
    assert reason(io.BytesIO(buffer.getvalue()[: len(buffer.getvalue()) // 2])) in (
        "truncated",
        "damaged",
    )


def test_avif():
    try:
        data = encoded(scene(64, 48), "AVIF", quality=95)
    except KeyError:
        pytest.skip("this Pillow can't write AVIF")
    assert sniff(data[:32]) == "AVIF"
    assert error_between(open_image(io.BytesIO(data)), scene(64, 48)) <= 12


def test_missing_packages_say_what_to_install(monkeypatch):
    heic = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(64)
    crw = b"II*\0\x10\0\0\0CR\x02\0" + bytes(64)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "rawpy", None)
    assert reason(io.BytesIO(heic)) == "HEIC needs: pip install 'hyperpq[heif]'"
    assert reason(io.BytesIO(crw)) == "RAW needs: pip install 'hyperpq[raw]'"


def tiff_folder(entries, at):
    """One folder of a little-endian TIFF at offset ``at``; entries are (tag, type, values)."""
    letters = {1: "B", 3: "H", 4: "I", 10: "i"}
    body, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, values in sorted(entries):
        count = len(values) // 2 if kind == 10 else len(values)  # fractions are two integers
        data = values if kind == 2 else struct.pack(f"<{len(values)}{letters[kind]}", *values)
        if len(data) > 4:
            data, tail = (
                struct.pack("<I", at + 6 + 12 * len(entries) + len(tail)),
                tail + data + bytes(len(data) % 2),
            )
        body += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    return body + bytes(4) + tail


def dng(preview, size, orientation):
    """A camera's raw file: a JPEG preview first, 64 x 48 sensor values in a second folder."""
    sensor = np.full((48, 64), 2000, "<u2").tobytes()

    def main(second, start):
        return [
            *((254, 4, [1]), (256, 4, [size[0]]), (257, 4, [size[1]]), (258, 3, [8, 8, 8])),
            *((259, 3, [7]), (262, 3, [6]), (271, 2, b"Maker\0"), (272, 2, b"Model X\0")),
            *((273, 4, [start]), (274, 3, [orientation]), (277, 3, [3]), (278, 4, [size[1]])),
            *((279, 4, [len(preview)]), (330, 4, [second]), (50706, 1, [1, 4, 0, 0])),
            *((50708, 2, b"Maker Model X\0"), (50778, 3, [21])),
            (50721, 10, [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]),
        ]

    def second(start):
        return [
            *((254, 4, [0]), (256, 4, [64]), (257, 4, [48]), (258, 3, [16]), (259, 3, [1])),
            *((262, 3, [32803]), (273, 4, [start]), (277, 3, [1]), (278, 4, [48])),
            *((279, 4, [len(sensor)]), (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2])),
            (50717, 4, [65535]),
        ]

    at = 8 + len(tiff_folder(main(0, 0), 8))
    end = at + len(tiff_folder(second(0), at))
    folders = tiff_folder(main(at, end + len(sensor)), 8) + tiff_folder(second(end), at)
    return b"II*\0" + struct.pack("<I", 8) + folders + sensor + preview


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_raw_file_through_rawpy(orientation):
    pytest.importorskip("rawpy")
    image = scene(400, 240)
    data = dng(encoded(image, "JPEG"), image.size, orientation)
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    expected = Image.fromarray(np.rot90(np.asarray(image), turns).copy())
    assert error_between(open_image(io.BytesIO(data)), expected) <= 8
    reason(io.BytesIO(data[:300]))


class FakeRaw:
    """Replaces the result of rawpy, so that all kinds of previews are tested without it."""

    def __init__(self, data, flip):
        self.preview = types.SimpleNamespace(data=data)
        self.sizes = types.SimpleNamespace(flip=flip)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def extract_thumb(self):
        if self.preview.data is None:
            raise NoThumbnailError
        return self.preview


class NoThumbnailError(Exception):
    pass


@pytest.mark.parametrize("name", ["a.nef", "a.DNG", "a.tif", "a.dat"])
def test_raw_previews(tmp_path, monkeypatch, name):
    answers = []
    fake = types.SimpleNamespace(
        imread=lambda file: answers.pop(),
        LibRawNoThumbnailError=NoThumbnailError,
        LibRawUnsupportedThumbnailError=NoThumbnailError,
    )
    monkeypatch.setitem(sys.modules, "rawpy", fake)
    path = tmp_path / name
    if name == "a.dat":
        path.write_bytes(b"FUJIFILMCCD-RAW " + bytes(100))
    else:  # the .tif is known by its DNG version
        tags = {50706: b"\x01\x04\0\0"} if name == "a.tif" else {}
        path.write_bytes(encoded(scene(), "TIFF", tiffinfo=tags))
    exif = Image.Exif()
    exif[0x0112] = 1
    plain = encoded(scene(), "JPEG")
    tagged = encoded(scene(), "JPEG", exif=exif)
    turned = Image.fromarray(np.rot90(np.asarray(scene()), -1).copy())
    for data, flip, expected in [
        (plain, 0, scene()),
        (plain, 6, turned),
        (tagged, 6, scene()),
        (np.asarray(scene()), 6, turned),
    ]:
        answers.append(FakeRaw(data, flip))
        assert error_between(open_image(path), expected) <= 8
    answers.append(FakeRaw(None, 0))
    assert reason(path) == "RAW without a preview"
    answers.append(FakeRaw(plain, 0))
    assert "megapixels" in reason(path, max_megapixels=1e-5)


def test_defects_and_their_reasons(tmp_path):
    def case(data, name=b"x"):
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb") as file:
            file.write(data)
        return reason(path)

    assert case(b"") == "empty file"
    assert case(bytes(5000)) == "not an image"
    assert case(b"hello, this is a text", b"text.jpg") == "not an image"
    assert case(b"BM is how this text begins, and it goes on") == "not an image"
    assert case(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"x.eps") == "not an image"
    image = scene(200, 200)
    for kind in ("JPEG", "BMP", "WebP", "TIFF", "PNG"):
        data = encoded(image, kind)
        assert case(data[: len(data) // 2]) == "truncated", kind
    data = encoded(image, "GIF")
    assert case(data[: len(data) // 2]) in ("truncated", "damaged")
    assert case(b"\x89PNG\r\n\x1a\n" + bytes(100)) == "damaged"
    assert reason(tmp_path) == "a folder, not an image"
    assert reason(tmp_path / "none") == "no such file"
    assert reason(os.fspath(tmp_path / ("n" * 300))) == "cannot be read (file name too long)"
    os.mkfifo(tmp_path / "pipe")
    assert reason(tmp_path / "pipe") == "not a regular file"
    assert reason("/dev/zero") == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(scene(), "PNG"))
    path.chmod(0)
    assert reason(path) == "permission denied"


def test_permission_denied_by_the_system(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "open", refuse)
    assert reason(tmp_path / "a.png") == "permission denied"


def test_size_bomb_is_refused_before_decoding():
    data = encoded(Image.new("1", (20_000, 9_000)), "PNG")
    message = reason(io.BytesIO(data), max_megapixels=100)
    assert message == "180 megapixels, more than the limit of 100 megapixels"
    header = b"\x89PNG\r\n\x1a\n" + data[8:33]  # no pixel at all: the header suffices
    assert reason(io.BytesIO(header + data[33:60]), max_megapixels=100) == message
    huge = bytearray(encoded(Image.new("RGB", (16, 16)), "BMP"))
    huge[18:26] = struct.pack("<ii", 60_000, 60_000)
    assert reason(io.BytesIO(huge)) == "3600 megapixels, more than the limit of 200 megapixels"


def test_pillow_warnings_do_not_leak(tmp_path):
    (tmp_path / "large.png").write_bytes(encoded(Image.new("1", (12_000, 8_000)), "PNG"))
    tiff = bytearray(encoded(scene(), "TIFF"))
    tiff[8:10] = b"\xff\xff"
    (tmp_path / "bad.tif").write_bytes(tiff)
    exif = encoded(scene(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03\0\0")
    (tmp_path / "exif.jpg").write_bytes(exif)
    code = (
        "import sys\n"
        "from hyperpq.datasets.decode import open_image\n"
        "from hyperpq.errors import ImageError\n"
        "for path in sys.argv[1:]:\n"
        "    try: open_image(path, max_megapixels=100 if 'large' not in path else 90)\n"
        "    except ImageError: pass\n"
    )
    paths = [os.fspath(path) for path in sorted(tmp_path.iterdir())]
    run = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""


def test_odd_names(tmp_path):
    folder = os.fsencode(tmp_path)
    for name in (b"caf\xe9.jpg", b"new\nline.png", "日本.png".encode(), b"-rf", b" "):
        path = os.path.join(folder, name)
        with open(path, "wb") as file:
            file.write(encoded(scene(), "PNG"))
        assert error_between(open_image(path), scene()) == 0
        assert error_between(open_image(os.fsdecode(path)), scene()) == 0
    assert "\0" not in reason("a\0b")


SEEDS = [
    encoded(scene(), kind, **options)
    for kind, options in [
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"}),
        ("PNG", {}),
        ("WebP", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ]
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_nothing_but_image_error_escapes(data):
    raw = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(raw) - 1) | st.integers(0, min(200, len(raw) - 1)))
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)) | st.just(len(raw)))]
    shrink_to = data.draw(st.none() | st.integers(1, 64))
    try:
        image = open_image(io.BytesIO(raw), max_megapixels=0.5, shrink_to=shrink_to)
    except ImageError as error:
        assert 0 < len(str(error)) < 80
        # Such bytes are the same tomorrow.
        assert not isinstance(error, ImageUnavailableError)
    else:
        assert image.mode == "RGB"
        assert np.asarray(image).shape == (image.height, image.width, 3)


class Failing(io.BytesIO):
    """A file on a disk that fails after its header."""

    code = errno.EIO

    def read(self, size=-1):
        if size < 0 or self.tell() + size > 64:
            raise OSError(self.code, os.strerror(self.code))
        return super().read(size)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EBADMSG]
)
def test_an_error_of_the_disk_says_nothing_of_the_image(kind, code):
    file = Failing(encoded(scene(400, 300), kind))
    file.code = code
    with pytest.raises(ImageUnavailableError):
        open_image(file)


def test_a_file_that_is_not_there_is_unavailable(tmp_path):
    """Its disk may not be mounted."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "gone.png", tmp_path / "file/gone.png"):
        with pytest.raises(ImageUnavailableError):
            open_image(path)
    for path in (tmp_path, "a\0b"):
        with pytest.raises(ImageError) as caught:
            open_image(path)
        assert not isinstance(caught.value, ImageUnavailableError)


def test_threads_and_open_files(tmp_path):
    for index in range(20):
        (tmp_path / f"{index}.jpg").write_bytes(encoded(scene(40 + index, 24), "JPEG"))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(open_image, sorted(tmp_path.iterdir()) * 3))
    assert sorted({image.width for image in images}) == list(range(40, 60))
    if before:
        assert len(os.listdir("/proc/self/fd")) == before
