"""JPEG files decoded and resized by the device: by nvImageCodec on the CPU, against Pillow."""

from __future__ import annotations

import io
import os
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
import torch
from PIL import Image

from hyperpq.backbones import load_backbone
from hyperpq.datasets.augment import MILD
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.plain_jpeg import plain_jpeg
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import HyperPQError, InvalidInputError, MissingDependencyError
from hyperpq.images import decoders, device_decoding
from hyperpq.images.decoders import Workers, make_decoder
from hyperpq.images.decoding import Decoding, Failure, ReadImage
from hyperpq.images.device_decoding import DeviceDecoding, upright
from hyperpq.images.extract import ReadOptions, extract_features
from hyperpq.images.sources import EncodedImage
from hyperpq.utils import imports

needs_codec = pytest.mark.skipif(
    imports.importlib.util.find_spec("nvidia") is None
    or imports.importlib.util.find_spec("nvidia.nvimgcodec") is None,
    reason="nvImageCodec is not installed",
)
SQUASH, CROP = Preprocessing(32), Preprocessing(32, "crop", 0.875, "bilinear")


class Stream(io.BytesIO):
    """A file that can be read once."""

    def seekable(self):
        return False


def photo(width=90, height=60, seed=0):
    """A smooth image with some noise, whose sides and colours all differ."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-9, 10, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(), exif=exif)


@pytest.fixture
def folder(tmp_path):
    """Files that a device decodes, and files that it must leave to the threads."""
    rgb = photo()
    files = {
        "plain.jpg": encoded(rgb),
        "same-size.jpg": encoded(photo(seed=1)),
        "tall.jpg": encoded(photo(40, 110, seed=2)),
        "grey.jpg": encoded(rgb.convert("L")),
        "progressive.jpg": encoded(rgb, progressive=True),
        "turned.jpg": turned(6),
        "fine-colours.jpg": encoded(rgb, subsampling=0),
        "inks.jpg": encoded(rgb.convert("CMYK")),
        "no-transform.jpg": encoded(rgb, keep_rgb=True),
        "half.jpg": encoded(rgb)[:-900],
        "more-behind.jpg": encoded(rgb) + b"a film",
        "image.png": encoded(rgb, "PNG"),
        "text.jpg": b"no image",
        "empty.jpg": b"",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def decode(sources, decoding, workers="device:2", batch_size=64):
    decoder = make_decoder(
        Workers.of(workers), decoding, batch_size=batch_size, ahead=1, n_files=9, device="cpu"
    )
    try:
        batch = decoder.submit(sources)
        pixels, outcomes = batch.result()
        batch.release()
        return pixels.copy(), outcomes
    finally:
        decoder.close()


@needs_codec
@pytest.mark.parametrize("prep", [SQUASH, CROP], ids=["squash", "crop"])
@pytest.mark.parametrize("views_later", [False, True])
def test_pixels_and_outcomes_are_those_of_threads(folder, prep, views_later):
    paths = [os.fsencode(path) for path in sorted(folder.iterdir())] + [b"/no/such/file.jpg"]
    decoding = Decoding(
        prep, 200.0, MILD if views_later else None, 2, hashes=True, views_later=views_later
    )
    pixels, outcomes = decode(paths, decoding)
    wanted, expected = decode(paths, decoding, "threads")
    assert outcomes == expected
    assert sum(isinstance(one, Failure) for one in outcomes) == 4
    good = [i for i, one in enumerate(outcomes) if isinstance(one, ReadImage)]
    assert pixels.shape == (1 + views_later, len(paths), 32, 32, 3)
    off = np.abs(pixels[:, good].astype(int) - wanted[:, good])
    assert off.max() <= 1
    assert off.mean() < 0.1


@needs_codec
def test_which_files_the_device_decodes(folder, monkeypatch):
    seen = []
    decode_files = device_decoding.NvImageCodec.decode

    def spy(self, files):
        seen.extend(files)
        return decode_files(self, files)

    monkeypatch.setattr(device_decoding.NvImageCodec, "decode", spy)
    names = sorted(path.name for path in folder.iterdir())
    decode([os.fsencode(folder / name) for name in names], Decoding(SQUASH, 200.0))
    contents = {(folder / name).read_bytes(): name for name in names}
    assert {contents[data] for data in seen} == {
        "plain.jpg", "same-size.jpg", "tall.jpg", "grey.jpg", "progressive.jpg", "turned.jpg",
        "fine-colours.jpg",
    }  # fmt: skip


@needs_codec
def test_content_in_memory_and_images_of_pillow():
    sources = [EncodedImage(encoded(photo())), photo(seed=1), EncodedImage(b"\xff\xd8\xff\xd9")]
    pixels, outcomes = decode(sources, Decoding(SQUASH, 200.0))
    wanted, expected = decode(sources, Decoding(SQUASH, 200.0), "threads")
    assert outcomes == expected
    assert np.abs(pixels[0, :2].astype(int) - wanted[0, :2]).max() <= 1
    assert isinstance(outcomes[2], Failure)


@needs_codec
def test_a_stream_that_cannot_be_read_again():
    """The threads get what was read to find out whose it is."""
    source = EncodedImage(Stream(encoded(photo(), "PNG")))
    pixels, outcomes = decode([source], Decoding(SQUASH, 200.0))
    assert outcomes == [ReadImage(90, 60, 0)]
    np.testing.assert_array_equal(pixels[0, 0], to_pixels(photo(), SQUASH))


@needs_codec
def test_what_the_device_refuses_is_decoded_by_threads(folder, monkeypatch):
    monkeypatch.setattr(
        device_decoding.NvImageCodec, "decode", lambda self, files: [None] * len(files)
    )
    paths = [os.fsencode(path) for path in sorted(folder.iterdir())]
    pixels, outcomes = decode(paths, Decoding(SQUASH, 200.0))
    wanted, expected = decode(paths, Decoding(SQUASH, 200.0), "threads")
    assert outcomes == expected
    good = [i for i, one in enumerate(outcomes) if isinstance(one, ReadImage)]
    np.testing.assert_array_equal(pixels[:, good], wanted[:, good])


@needs_codec
def test_a_device_that_fails_is_named(folder, monkeypatch):
    def fail(self, files):
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB\nmore lines")

    monkeypatch.setattr(device_decoding.NvImageCodec, "decode", fail)
    with pytest.raises(HyperPQError, match=r"decoding 1 images on cpu failed \(CUDA out of memory"):
        decode([os.fsencode(folder / "plain.jpg")], Decoding(SQUASH, 200.0))


@needs_codec
def test_images_beyond_the_limit_have_the_same_reason(folder):
    paths = [os.fsencode(folder / "plain.jpg")]
    _, outcomes = decode(paths, Decoding(SQUASH, 0.001))
    assert outcomes == decode(paths, Decoding(SQUASH, 0.001), "threads")[1]
    assert "more than the limit" in outcomes[0].reason


@needs_codec
def test_what_is_too_large_for_the_device_is_decoded_by_threads(folder, monkeypatch):
    monkeypatch.setattr(device_decoding, "_MOST_BYTES", 3 * 90 * 60 - 1)
    sizes = []
    decode_files = device_decoding.NvImageCodec.decode

    def spy(self, files):
        sizes.extend(plain_jpeg(data)[:2] for data in files)
        return decode_files(self, files)

    monkeypatch.setattr(device_decoding.NvImageCodec, "decode", spy)
    paths = [os.fsencode(folder / name) for name in ("plain.jpg", "tall.jpg")]
    pixels, outcomes = decode(paths, Decoding(SQUASH, 200.0))
    wanted, expected = decode(paths, Decoding(SQUASH, 200.0), "threads")
    assert sizes == [(40, 110)]
    assert outcomes == expected
    np.testing.assert_array_equal(pixels[:, 0], wanted[:, 0])


@needs_codec
def test_many_files_and_few_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(device_decoding, "_FILES_AHEAD", 3)
    # Two of these images at once.
    monkeypatch.setattr(device_decoding, "_MOST_BYTES", 2 * 3 * 90 * 60)
    counts = []
    decode_files = device_decoding.NvImageCodec.decode

    def spy(self, files):
        counts.append(len(files))
        return decode_files(self, files)

    monkeypatch.setattr(device_decoding.NvImageCodec, "decode", spy)
    images = [photo(seed=seed) for seed in range(8)]
    sources = [EncodedImage(encoded(image, quality=95)) for image in images]
    pixels, _ = decode(sources, Decoding(SQUASH, 200.0))
    assert counts == [2, 1, 2, 1, 2]
    for made, source in zip(pixels[0], sources, strict=True):
        wanted = to_pixels(open_image(source.read()), SQUASH)
        assert np.abs(made.astype(int) - wanted).max() <= 1


@needs_codec
def test_closing_does_not_wait_for_a_whole_batch(monkeypatch):
    """As after Ctrl-C: what the device has not begun is dropped."""
    monkeypatch.setattr(device_decoding, "_MOST_BYTES", 3 * 90 * 60)
    decoder = DeviceDecoding("cpu", 1, Decoding(SQUASH, 200.0), decoders.BUDGET)
    closing = threading.Thread(target=decoder.close)
    calls = []
    decode_files = device_decoding.NvImageCodec.decode

    def spy(self, files):
        calls.append(len(files))
        if len(calls) == 1:
            closing.start()
            assert decoder._closing.wait(60)
        return decode_files(self, files)

    monkeypatch.setattr(device_decoding.NvImageCodec, "decode", spy)
    batch = decoder.submit([EncodedImage(encoded(photo()))] * 5)
    with pytest.raises(CancelledError):
        batch.result()
    closing.join(60)
    assert not closing.is_alive()
    assert calls == [1]


@needs_codec
def test_features_are_those_of_threads(folder):
    paths = [os.fsencode(path) for path in sorted(folder.iterdir())]
    network = load_backbone("lite0", device="cpu")
    found = extract_features(paths, network, ReadOptions("device"))
    wanted = extract_features(paths, network, ReadOptions("threads"))
    assert found.skipped == wanted.skipped
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.sizes, wanted.sizes)
    cosine = (found.plain * wanted.plain).sum(1) / (
        np.linalg.norm(found.plain, axis=1) * np.linalg.norm(wanted.plain, axis=1)
    )
    # Of photos it is above .999; these are noise, made larger.
    assert cosine.min() > 0.99


@needs_codec
def test_views_of_files_are_made_by_threads():
    """Whoever wants Pillow's views of the file gets them, also with a device."""
    sources = [EncodedImage(encoded(photo()), b"a.jpg")]
    decoding = Decoding(SQUASH, 200.0, MILD, 2)
    pixels, _ = decode(sources, decoding)
    np.testing.assert_array_equal(pixels, decode(sources, decoding, "threads")[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation):
    data = turned(orientation)
    header = plain_jpeg(data)
    assert header == (90, 60, orientation)
    stored = np.array(Image.open(io.BytesIO(data)))
    found = upright(torch.from_numpy(stored), orientation).numpy()
    np.testing.assert_array_equal(found, np.asarray(open_image(io.BytesIO(data))))


def test_without_the_library(monkeypatch):
    def missing(name, *rest):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(imports, "_import", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'hyperpq\[gpu_decode\]'"):
        Workers.of("device:4")


def test_without_pytorch(monkeypatch):
    monkeypatch.setattr(imports.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"PyTorch.*pip install 'hyperpq\[train\]'"):
        Workers.of("device")


@needs_codec
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a device that cannot be used")
def test_a_device_that_cannot_be_used_is_named():
    with pytest.raises(HyperPQError, match=r"cannot be used on cuda:0 \(.*workers='processes'"):
        make_decoder(
            Workers.of("device"),
            Decoding(SQUASH, 200.0),
            batch_size=8,
            ahead=1,
            n_files=9,
            device="cuda:0",
        )


@pytest.mark.parametrize("asked", ["device:-1", "device:x", "gpu"])
def test_what_is_refused(asked):
    with pytest.raises(InvalidInputError, match="'device:N'"):
        ReadOptions(asked)


@pytest.mark.gpu
@needs_codec
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_decodes_alike(folder):
    paths = [os.fsencode(path) for path in sorted(folder.iterdir())]
    decoding = Decoding(SQUASH, 200.0, MILD, 2, hashes=True, views_later=True)
    decoder = DeviceDecoding("cuda:0", 4, decoding, decoders.BUDGET)
    pixels, outcomes = decoder.submit(paths).result()
    decoder.close()
    wanted, expected = decode(paths, decoding, "threads")
    assert outcomes == expected
    good = [i for i, one in enumerate(outcomes) if isinstance(one, ReadImage)]
    # Colours of half the resolution are made larger in another way.
    assert np.abs(pixels[:, good].astype(int) - wanted[:, good]).mean() < 2
