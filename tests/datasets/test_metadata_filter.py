"""Metadata is read leniently and pixels strictly: hand-made files with damage in one of both."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from hyperpq.datasets.decode import open_image
from hyperpq.datasets.metadata_filter import without_metadata, without_tiff_metadata
from hyperpq.errors import ImageError

# pytest shows warnings that are ignored outside of it.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def scene(width=40, height=24):
    """A smooth image whose sides differ, so that every rotation changes it."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    return Image.fromarray(
        np.stack([40 + 180 * x, 40 + 180 * y, 200 - 150 * x * y], -1).astype(np.uint8)
    )


def encoded(kind, image=None, **options):
    buffer = io.BytesIO()
    (image or scene()).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    return np.asarray(open_image(io.BytesIO(data)))


def chunk(name, data, check=None):
    check = zlib.crc32(name + data) if check is None else check
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def segment(marker, data):
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


def blocks(data):
    parts = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


PNG = encoded("PNG")
JPEG = encoded("JPEG", quality=95, subsampling=0)
GIF = encoded("GIF", scene().quantize(64))
TIFFS = {"plain": encoded("TIFF"), "lzw": encoded("TIFF", compression="tiff_lzw")}
BIG_TIFF = encoded("TIFF", big_tiff=True)
# What a decoder would have to inflate to 2 MB and to 200 MB.
TWO_MB, BOMB = zlib.compress(bytes(2 << 20)), zlib.compress(bytes(200 << 20), 1)
HEADER, JFIF = 33, 20  # ends of the parts of a PNG and a JPEG that come first

PNG_CHUNKS = {
    "zTXt of 2 MB": [chunk(b"zTXt", b"Comment\0\0" + TWO_MB)],
    "iTXt of 2 MB": [chunk(b"iTXt", b"Comment\0\1\0\0\0" + TWO_MB)],
    "XMP of 2 MB": [chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TWO_MB)],
    "EXIF as text of 2 MB": [chunk(b"zTXt", b"Raw profile type exif\0\0" + TWO_MB)],
    "ICC of 2 MB": [chunk(b"iCCP", b"profile\0\0" + TWO_MB)],
    "ICC of 200 MB": [chunk(b"iCCP", b"profile\0\0" + BOMB)],
    "100 texts of 1 MB": [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 100,
    "text of 70 MB": [chunk(b"tEXt", b"Comment\0" + bytes(70 << 20))],
    "20,000 texts": [chunk(b"tEXt", b"a\0b")] * 20_000,
    "texts that do not inflate": [
        chunk(b"zTXt", b"a\0\0no zlib"),
        chunk(b"zTXt", b"a\0\7method"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0no zlib"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1"),
        chunk(b"zTXt", b"Raw profile type exif\0\0no zlib"),
        chunk(b"tEXt", b"Raw profile type exif\0no hexadecimal digits"),
    ],
    "ICC that does not inflate": [chunk(b"iCCP", b"a\0\0no zlib"), chunk(b"iCCP", b"a\0\7")],
    "empty": [chunk(name, b"") for name in (b"iCCP", b"iTXt", b"zTXt", b"eXIf", b"sRGB")],
    "short": [chunk(name, b"a") for name in (b"pHYs", b"gAMA", b"cHRM", b"acTL", b"fcTL", b"fdAT")],
    "checksums": [chunk(name, b"a\0b", 1) for name in (b"tEXt", b"iCCP", b"eXIf", b"abCd")],
    "EXIF": [chunk(b"eXIf", b"no EXIF"), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff")],
}


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_whole_png_with_damaged_or_large_metadata(name, place):
    at = HEADER if place == "before the pixels" else len(PNG) - 12
    data = PNG[:at] + b"".join(PNG_CHUNKS[name]) + PNG[at:]
    np.testing.assert_array_equal(pixels(data), pixels(PNG))


def test_png_that_ends_in_its_metadata():
    for data in (PNG[:-12], PNG[:-12] + chunk(b"tEXt", bytes(100))[:-40], PNG + bytes(100)):
        np.testing.assert_array_equal(pixels(data), pixels(PNG))


JPEG_SEGMENTS = {
    "ICC without number": [segment(0xE2, b"ICC_PROFILE\0"), segment(0xE2, b"ICC_PROFILE\0\1")],
    "ICC in parts that are missing": [segment(0xE2, b"ICC_PROFILE\0\1\5data")],
    "ICC of 16 MB": [
        segment(0xE2, b"ICC_PROFILE\0" + bytes((part, 255)) + bytes(65_000)) for part in range(255)
    ],
    "70 MB of a program": [segment(0xE5, bytes(65_500))] * 1_100,
    "70 MB of comments": [segment(0xFE, bytes(65_500))] * 1_100,
    "IPTC": [
        segment(0xED, b"Photoshop 3.0\0" + rest)
        for rest in (b"8BIM\x04", b"8BIM\x04\x04", b"8BIM\x04\x04\0\0\xff\xff\xff\xff")
    ],
    "EXIF": [segment(0xE1, b"Exif\0\0" + rest) for rest in (b"", b"none", b"MM\0*\0\0\0\x08\xff")],
    "XMP": [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe<<<")],
    "preview": [segment(0xE2, b"MPF\0none"), segment(0xE2, b"FPXR\0")],
    "short JFIF and Adobe": [segment(0xE0, b"JFIF\0"), segment(0xEE, b"Adobe")],
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_whole_jpeg_with_damaged_or_large_metadata(name):
    data = JPEG[:JFIF] + b"".join(JPEG_SEGMENTS[name]) + JPEG[JFIF:]
    np.testing.assert_array_equal(pixels(data), pixels(JPEG))


# Types of a tag in which Pillow reads an integer: short, long and the signed ones of any width.
INTEGERS = {3, 4, 6, 8, 9, 13}


@pytest.mark.parametrize("kind", range(14))
def test_orientation_of_any_type(kind):
    """Nothing but one of the numbers 1 to 8 is an orientation; others leave the image as it is."""
    for count, value in ((1, 6), (1, 0), (1, 99), (8, 0), (2**31 - 1, 8)):
        tag = struct.pack("<HHII", 0x0112, kind, count, value)
        exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + tag + bytes(4)
        turned = pixels(JPEG[:2] + segment(0xE1, exif) + JPEG[JFIF:])
        is_orientation = kind in INTEGERS and (count, value) == (1, 6)
        expected = np.rot90(pixels(JPEG), -1) if is_orientation else pixels(JPEG)
        np.testing.assert_array_equal(turned, expected)


def with_tags(data, *entries):
    """A TIFF with more tags in its directory, which moves to its end."""
    at = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[at : at + 2])[0]
    old = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    new = [struct.pack("<HHII", *entry) for entry in entries]
    tags = sorted(
        [entry for entry in old if entry[:2] not in {e[:2] for e in new}] + new,
        key=lambda entry: struct.unpack("<H", entry[:2]),
    )
    data += bytes(len(data) % 2)
    directory = struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


# Description, maker, software, date, artist, copyright, XMP, IPTC, Photoshop, EXIF, GPS, ICC.
TEXT_TAGS = (270, 271, 305, 306, 315, 33432, 700, 33723, 34377, 34665, 34853, 34675)


@pytest.mark.parametrize("compression", TIFFS)
@pytest.mark.parametrize("tag", TEXT_TAGS)
def test_whole_tiff_with_damaged_tags(compression, tag):
    data = TIFFS[compression]
    for kind in range(14):
        for count, value in ((1, 5), (1, 2**32 - 1), (100, 0xFFFFF0), (2**31 - 1, 8), (0, 0)):
            damaged = with_tags(data, (tag, kind, count, value))
            np.testing.assert_array_equal(pixels(damaged), pixels(data))


def test_orientation_of_a_tiff_with_damaged_tags():
    data = TIFFS["plain"]
    turned = with_tags(data, (274, 3, 1, 6))
    damaged = with_tags(data, (270, 2, 100, 0xFFFFF0), (274, 3, 1, 6))
    np.testing.assert_array_equal(pixels(turned), np.rot90(pixels(data), -1))
    np.testing.assert_array_equal(pixels(damaged), pixels(turned))


def test_tiff_directory_is_reduced_in_both_sizes_of_the_format():
    for data in (*TIFFS.values(), BIG_TIFF):
        bare = without_tiff_metadata(io.BytesIO(data))
        np.testing.assert_array_equal(pixels(bare.read()), pixels(data))
    assert without_tiff_metadata(io.BytesIO(b"II*\0\xff\xff\xff\xff")) is None


def test_whole_webp_with_damaged_or_large_metadata():
    plain = encoded("WebP", lossless=True)
    data = encoded(
        "WebP", lossless=True, exif=b"Exif\0\0none", xmp=b"<\xff", icc_profile=bytes(2 << 20)
    )
    np.testing.assert_array_equal(pixels(data), pixels(plain))


def test_whole_heic_with_damaged_metadata():
    pillow_heif = pytest.importorskip("pillow_heif")
    plain, damaged = io.BytesIO(), io.BytesIO()
    pillow_heif.from_pillow(scene(64, 48)).save(plain, quality=90)
    pillow_heif.from_pillow(scene(64, 48)).save(
        damaged, quality=90, exif=b"Exif\0\0none", xmp=b"<\xff"
    )
    np.testing.assert_array_equal(pixels(damaged.getvalue()), pixels(plain.getvalue()))


def test_whole_gif_with_damaged_or_large_metadata():
    at = GIF.index(b",", 13 + 3 * 64)
    for extension in (
        b"!\xfe" + blocks(bytes(20 << 20)),
        (b"!\xfe" + blocks(b"x")) * 20_000,
        b"!\xff" + blocks(b"NETSCAPE2.0"),
        b"!\xff" + blocks(b"XMP DataXMP" + bytes(5_000)),
        b"!\x01" + blocks(b"none"),
        b"!\xfe\0",
    ):
        np.testing.assert_array_equal(pixels(GIF[:at] + extension + GIF[at:]), pixels(GIF))


@pytest.mark.parametrize(
    "carrier",
    [
        lambda exif, xmp: chunk(b"eXIf", exif),
        lambda exif, xmp: chunk(b"tEXt", b"Raw profile type exif\0" + as_text(exif)),
        lambda exif, xmp: chunk(
            b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(as_text(exif))
        ),
        lambda exif, xmp: chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        lambda exif, xmp: chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ],
)
@pytest.mark.parametrize("at", [HEADER, len(PNG) - 12])
def test_png_is_turned_by_whatever_states_its_orientation(carrier, at):
    exif = Image.Exif()
    exif[0x0112] = 6
    part = carrier(exif.tobytes()[6:], b'<x tiff:Orientation="6"/>')
    data = PNG[:at] + chunk(b"iCCP", b"") + part + PNG[at:]
    np.testing.assert_array_equal(pixels(data), np.rot90(pixels(PNG), -1))


def as_text(exif):
    data = b"Exif\0\0" + exif
    return b"\nexif\n%8d\n%s\n" % (len(data), data.hex().encode())


def test_damaged_pixels_stay_an_error():
    """Whatever the metadata is: a file whose pixels are cut or altered is not read as an image."""
    middle = PNG.index(b"IDAT") + 30
    text = chunk(b"zTXt", b"a\0\0" + TWO_MB)
    cut = len(JPEG) * 2 // 3
    for data in (
        PNG[:HEADER] + text + PNG[HEADER:middle],
        PNG[:HEADER] + text + PNG[HEADER:middle] + bytes(20) + PNG[middle + 20 :],
        PNG[:HEADER] + chunk(b"tRNS", b"abc", 1) + PNG[HEADER:],
        JPEG[:JFIF] + segment(0xED, b"Photoshop 3.0\0") + JPEG[JFIF:cut],
        with_tags(TIFFS["plain"], (270, 2, 100, 0xFFFFF0), (273, 4, 1, 0xFFFFF0)),
        with_tags(TIFFS["lzw"], (270, 2, 100, 0xFFFFF0), (259, 3, 1, 77)),
        GIF[:-300],
    ):
        with pytest.raises(ImageError):
            pixels(data)


def test_text_is_passed_over_and_not_read():
    data = PNG[:HEADER] + chunk(b"tEXt", b"Comment\0" + bytes(30 << 20)) + PNG[HEADER:]
    source = io.BytesIO(data)
    tracemalloc.start()
    open_image(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_file_without_such_metadata_is_passed_on_as_it_is():
    for kind, data in (("PNG", PNG), ("JPEG", JPEG), ("GIF", GIF), ("BMP", encoded("BMP"))):
        file = io.BytesIO(data)
        assert without_metadata(file, kind) is file
        assert file.tell() == 0


def test_what_is_left_reads_like_a_file():
    parts = [
        PNG[:HEADER],
        chunk(b"tEXt", b"a\0b"),
        PNG[HEADER:-12],
        chunk(b"tIME", b"1"),
        PNG[-12:],
    ]
    file = without_metadata(io.BytesIO(b"".join(parts)), "PNG")
    assert file.read() == PNG
    assert file.seek(0, io.SEEK_END) == len(PNG)
    assert file.read(1) == b""
    for at in range(0, len(PNG), 7):
        file.seek(at)
        assert file.tell() == at
        assert file.read(50) == PNG[at : at + 50]
