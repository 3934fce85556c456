"""Altered image files of every format: an image or an `ImageError`, in little memory and time."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

FILES = int(os.environ.get("HYPERPQ_FUZZ_FILES", "300"))
"""Altered files for each format."""

READ = """
import faulthandler, io, pathlib, resource, sys
import numpy as np
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import ImageError

sys.path.insert(0, sys.argv[1])
from test_decode_fuzz import altered, seeds

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20

kind, count, file = sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4])
prep = Preprocessing(32)
for data in seeds(kind):
    to_pixels(open_image(io.BytesIO(data)), prep)
before, opened = peak(), 0
for data in altered(seeds(kind), count):
    faulthandler.dump_traceback_later(100, exit=True)  # a hang
    file.write_bytes(data)  # to be found if it ends the process
    try:
        image = open_image(file if opened % 2 else io.BytesIO(data), max_megapixels=1, shrink_to=64)
    except ImageError as error:
        assert 0 < len(str(error)) < 90 and "\\n" not in str(error), error
    else:
        opened += 1
        assert image.mode == "RGB" and image.size[0] * image.size[1] <= 1_000_000
        to_pixels(image, prep)
print(opened, peak() - before)
"""


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seeds(kind):
    """Good files of a format, of several modes and compressions, with all kinds of metadata."""
    y, x = np.mgrid[0:48, 0:64] / 64
    rgb = Image.fromarray(
        np.stack([40 + 180 * x, 40 + 180 * y, 200 - 150 * x * y], -1).astype(np.uint8)
    )
    rgba = rgb.copy()
    rgba.putalpha(rgb.getchannel("R"))
    deep = Image.fromarray((x * 65535).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="3"/>'
    about = {"exif": exif, "icc_profile": bytes(range(256)) * 4}
    if kind == "JPEG":
        return [
            encoded(rgb, kind, xmp=xmp, comment=b"comment", **about),
            encoded(rgb, kind, progressive=True, restart_marker_blocks=1),
            encoded(rgb.convert("CMYK"), kind),
            encoded(rgb.convert("L"), kind, **about),
        ]
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("Comment", "text " * 50, zip=True)
        info.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        return [
            encoded(rgb, kind, pnginfo=info, dpi=(72, 72), **about),
            encoded(rgba, kind),
            encoded(deep, kind),
            encoded(rgb.quantize(16), kind, transparency=bytes(range(0, 256, 16)), bits=4),
            encoded(rgb, kind, save_all=True, append_images=[rgb.rotate(90)]),
        ]
    if kind == "WebP":
        return [
            encoded(rgb, kind, xmp=xmp, **about),
            encoded(rgba, kind, lossless=True),
            encoded(rgb, kind, save_all=True, append_images=[rgb.rotate(90)]),
        ]
    if kind == "GIF":
        return [
            encoded(rgb, kind, comment=b"comment" * 60),
            encoded(rgb.quantize(8), kind, transparency=3, interlace=1),
            encoded(rgb, kind, save_all=True, append_images=[rgb.rotate(90)], loop=0),
        ]
    if kind == "BMP":
        modes = (rgb, rgba, rgb.convert("L"), rgb.convert("1"), rgb.quantize(16))
        return [encoded(image, kind) for image in modes]
    if kind == "TIFF":
        tags = {"tiffinfo": {270: "description " * 9, 315: "artist"}, "icc_profile": bytes(99)}
        return [
            encoded(rgb, kind, exif=exif, **tags),
            encoded(rgba, kind, compression="tiff_lzw", **tags),
            encoded(deep, kind, compression="tiff_deflate"),
            encoded(rgb, kind, compression="jpeg"),
            encoded(rgb, kind, compression="packbits", big_tiff=True),
            encoded(rgb.convert("1"), kind, compression="group4"),
            encoded(Image.fromarray(x.astype(np.float32)), kind),
        ]
    if kind == "AVIF":
        return [encoded(rgb, kind, quality=60, **about), encoded(rgba, kind, quality=60)]
    import pillow_heif

    out = []
    for image, options in ((rgb, {"exif": exif.tobytes(), "xmp": xmp}), (rgba, {})):
        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(buffer, quality=60, **options)
        out.append(buffer.getvalue())
    return out


def altered(files, count):
    """Files with bytes that are changed, removed, repeated, inserted and cut off."""
    for number in range(count):
        rng = np.random.default_rng(number)
        data = bytearray(files[number % len(files)])
        for _ in range(rng.integers(1, 6)):
            # Headers are short and matter most.
            length = len(data)
            near = rng.random() < 0.6
            at = int(rng.integers(0, max(1, min(length, 300) if near else length)))
            size = int(rng.choice([1, 2, 4, 16, 300]))
            action = rng.integers(0, 7)
            if action <= 2:
                data[at : at + size] = rng.bytes(len(data[at : at + size]))
            elif action == 3:
                # Lengths and counts at their limits.
                value = [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
                data[at : at + 4] = value[rng.integers(4)]
            elif action == 4:
                del data[at : at + size]
            elif action == 5:
                data[at:at] = data[at : at + size] * int(rng.integers(1, 40))
            else:
                del data[int(rng.integers(0, length + 1)) :]
        if data[:8] == b"\x89PNG\r\n\x1a\n" and number % 2:
            with_checksums(data)
        yield bytes(data)


def with_checksums(png):
    """Correct the checksums of a PNG, so that its decoder reads what was altered."""
    at = 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        if end + 4 > len(png):
            break
        png[end : end + 4] = zlib.crc32(png[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"])
def test_altered_files(kind, tmp_path):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    if kind == "HEIC":
        pytest.importorskip("pillow_heif")
    here = os.path.dirname(os.path.abspath(__file__))
    file = tmp_path / "altered"
    command = [sys.executable, "-c", READ, here, kind, str(FILES), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, (done.stderr[-3000:], file.read_bytes()[:100])
    opened, megabytes = map(int, done.stdout.split())
    # Some of the files are still images, so that both ends are tested.
    assert 0 < opened < FILES
    assert megabytes < 100
