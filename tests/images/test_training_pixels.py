"""The pixels that a network is fine-tuned on: in a file or read again, and after a kill."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from image_tools import SIDE, Grid, fill

from hyperpq.datasets.decode import open_image
from hyperpq.datasets.preprocessing import to_pixels
from hyperpq.errors import DatasetError
from hyperpq.images import training_pixels
from hyperpq.images.extract import ReadOptions
from hyperpq.images.training_pixels import TrainingPixels

COUNT = 11


class Counted:
    def __init__(self):
        self.done = 0

    def advance(self, n=1, **_):
        self.done += n


@pytest.fixture
def paths(tmp_path):
    folder = fill(tmp_path / "p", COUNT)
    (folder / "004.png").write_bytes(b"no image")
    return [os.fsencode(path) for path in sorted(folder.iterdir())]


def wanted(paths):
    prep = Grid().preprocessing
    return np.stack([to_pixels(open_image(p), prep) for p in paths if b"004" not in p])


def prepared(paths, folder, **options):
    folder.mkdir(exist_ok=True)
    made = TrainingPixels(paths, Grid().preprocessing, folder, ReadOptions(**options))
    phase = Counted()
    made.prepare(phase)
    assert phase.done == COUNT
    return made


@pytest.mark.parametrize("workers", ["threads:1", "processes:2"])
@pytest.mark.parametrize("cached", [True, False])
def test_both_give_the_pixels_of_images_that_can_be_read(
    paths, tmp_path, cached, workers, monkeypatch
):
    if not cached:
        monkeypatch.setattr(training_pixels, "MAX_CACHE_BYTES", COUNT * SIDE * SIDE * 3 - 1)
    monkeypatch.setattr(training_pixels, "_BATCH", 4)
    images = prepared(paths, tmp_path / "w", workers=workers)
    assert images.is_cached is cached
    assert (len(images), images.readable.tolist()) == (COUNT - 1, [0, 1, 2, 3, *range(5, 11)])
    rows = np.array([9, 0, 3, 4, 4, 8, 2, 1])
    pixels = images.pixels(rows)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, wanted(paths)[rows])
    file = tmp_path / "w/pixels.bin"
    assert file.exists() is cached
    assert not cached or file.stat().st_size == COUNT * SIDE * SIDE * 3
    images.remove()
    assert list((tmp_path / "w").iterdir()) == []


def test_a_disk_with_little_room_holds_no_pixels(paths, tmp_path, monkeypatch):
    free = 2 * COUNT * SIDE * SIDE * 3
    for left, cached in ((free - 2, False), (free, True)):
        usage = type("Usage", (), {"free": left})
        monkeypatch.setattr(training_pixels.shutil, "disk_usage", lambda _, usage=usage: usage)
        folder = tmp_path / str(left)
        images = prepared(paths, folder)
        assert images.is_cached is cached
        # What is begun goes on in the same way.
        monkeypatch.setattr(training_pixels.shutil, "disk_usage", None)
        again = prepared(paths, folder)
        assert again.is_cached is cached
        np.testing.assert_array_equal(again.pixels(np.arange(10)), images.pixels(np.arange(10)))
        images.close()
        again.close()


def test_a_killed_preparation_goes_on_after_its_last_batch(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(training_pixels, "_BATCH", 3)
    real, calls = TrainingPixels._decode, []

    def decode(self, rows):
        calls.append(rows.tolist())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, rows)

    monkeypatch.setattr(TrainingPixels, "_decode", decode)
    with pytest.raises(KeyboardInterrupt):
        prepared(paths, tmp_path / "w")
    assert json.loads((tmp_path / "w/pixels.json").read_text())["done"] == 6
    images = prepared(paths, tmp_path / "w")
    assert calls[3:] == [[6, 7, 8], [9, 10]]
    np.testing.assert_array_equal(images.pixels(np.arange(10)), wanted(paths))


def test_a_file_that_is_gone_later_is_named(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(training_pixels, "MAX_CACHE_BYTES", 0)
    images = prepared(paths, tmp_path / "w")
    os.unlink(paths[0])
    with pytest.raises(DatasetError, match=r"000.png cannot be read any more \(.*--resume"):
        images.pixels(np.array([3, 0]))
    images.close()
