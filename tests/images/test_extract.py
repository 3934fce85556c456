"""Images to features: order, skipped files, batches and threads, with a network in numpy."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hyperpq.backbones.base import BATCH_SIZE, Backbone
from hyperpq.datasets.augment import MILD, PAPER, make_view, view_rng
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.preprocessing import Preprocessing, to_pixels
from hyperpq.errors import BackboneError
from hyperpq.images.extract import (
    ReadOptions,
    extract_features,
    stream_features,
    stream_groups,
)

SIDE = 24


class Grid(Backbone):
    """Mean colour of each of 3 x 3 cells."""

    def __init__(self):
        prep = Preprocessing(SIDE, "squash", 1.0, "bicubic")
        super().__init__("grid", 27, prep, "0" * 32, "cpu", mean=None, std=None)
        self.batches = []

    def _features(self, pixels):
        self.batches.append(len(pixels))
        cells = pixels.reshape(len(pixels), 3, SIDE // 3, 3, SIDE // 3, 3)
        return cells.mean((2, 4), dtype=np.float64).reshape(len(pixels), 27).astype(np.float32)


@pytest.fixture(scope="module")
def paths(drawn):
    return [bytes(path) for path in sorted(drawn.rglob("*.*")) if path.suffix != ".json"]


@pytest.fixture(scope="module")
def with_bad(drawn, paths, tmp_path_factory):
    """The images and some files that cannot be read; position -> words of the reason."""
    folder = tmp_path_factory.mktemp("bad")
    contents = {
        "empty.jpg": (b"", "empty"),
        "text.png": (b"no image at all", "not an image"),
        "torn.jpg": (Path(os.fsdecode(paths[0])).read_bytes()[:400], "truncated"),
        "missing.jpg": (None, ""),
    }
    files, reasons = list(paths), {}
    for place, (name, (data, reason)) in zip((0, 31, 40, 75), contents.items(), strict=True):
        if data is not None:
            (folder / name).write_bytes(data)
        files.insert(place, bytes(folder / name))
        reasons[place] = reason
    return files, reasons


def one_by_one(files, augmentation=None, n_views=0, seed=0):
    """Each image alone, in order: plain features and those of the views."""
    network, rows = Grid(), []
    for path in files:
        image = open_image(path, max_megapixels=200.0, shrink_to=network.preprocessing.decode_side)
        pixels = [to_pixels(image, network.preprocessing)]
        name = path.rpartition(b"/")[2]
        for view in range(n_views):
            rng = view_rng(seed, name, view)
            pixels.append(make_view(image, augmentation, SIDE, rng))
        rows.append(np.concatenate([network(p[None]) for p in pixels]))
    return np.stack(rows, 1)


def test_features_are_in_the_order_of_the_files(paths):
    out = extract_features(paths, Grid(), ReadOptions())
    np.testing.assert_array_equal(out.rows, np.arange(72))
    np.testing.assert_array_equal(out.plain, one_by_one(paths)[0])
    assert out.plain.dtype == np.float32
    assert out.views.shape == (0, 72, 27)
    assert out.skipped == []


@pytest.mark.parametrize("augmentation", [MILD, PAPER])
def test_views_are_those_of_each_image(paths, augmentation):
    out = extract_features(paths[:40], Grid(), ReadOptions(0, 200, augmentation, 2, 9))
    want = one_by_one(paths[:40], augmentation, 2, 9)
    np.testing.assert_array_equal(out.plain, want[0])
    np.testing.assert_array_equal(out.views, want[1:])
    assert (out.views[0] != out.views[1]).any(1).all()
    other = extract_features(paths[:40], Grid(), ReadOptions(0, 200, augmentation, 2, 10))
    np.testing.assert_array_equal(other.plain, out.plain)
    assert (other.views != out.views).any()


def test_unreadable_files_are_named_and_the_rest_is_as_if_they_were_not_there(with_bad, paths):
    files, reasons = with_bad
    out = extract_features(files, Grid(), ReadOptions(2, 200, MILD, 1, 0))
    assert [row for row, _ in out.skipped] == sorted(reasons)
    for row, reason in out.skipped:
        assert reason
        assert reasons[row] in reason
        assert "\n" not in reason
    np.testing.assert_array_equal(out.rows, np.setdiff1d(np.arange(len(files)), list(reasons)))
    clean = extract_features(paths, Grid(), ReadOptions(2, 200, MILD, 1, 0))
    np.testing.assert_array_equal(out.plain, clean.plain)
    np.testing.assert_array_equal(out.views, clean.views)


@pytest.mark.parametrize("workers", [1, 2, 7, "threads:3", "processes:1", "processes:3"])
def test_threads_processes_and_their_number_do_not_change_a_bit(with_bad, workers):
    files, _ = with_bad
    want = extract_features(files, Grid(), ReadOptions(0, 200, MILD, 2, 3, hashes=True))
    out = extract_features(files, Grid(), ReadOptions(workers, 200, MILD, 2, 3, hashes=True))
    for name in ("rows", "plain", "views", "sizes", "hashes"):
        np.testing.assert_array_equal(getattr(out, name), getattr(want, name))
    assert out.skipped == want.skipped
    assert out.unavailable == want.unavailable == {75}


@pytest.mark.parametrize("workers", [2, "processes:1"])
def test_groups_are_those_of_calls_of_their_own(with_bad, workers):
    files, _ = with_bad
    groups = [files[:40], [], files[40:41], files[41:]]
    asked = []

    def lazily():
        for group in groups:
            asked.append(len(group))
            yield group

    options = ReadOptions(2, 200, MILD, 1, 0)
    stream = stream_groups(lazily(), Grid(), ReadOptions(workers, 200, MILD, 1, 0), len(files))
    for number, (group, out) in enumerate(zip(groups, stream, strict=True)):
        # The last is begun before the second is done.
        assert len(asked) == (4 if number else len(asked))
        want = extract_features(group, Grid(), options)
        for name in ("rows", "plain", "views", "sizes"):
            np.testing.assert_array_equal(getattr(out, name), getattr(want, name))
        assert out.skipped == want.skipped


class Late(Grid):
    """Has up to three batches in work, as a network on a GPU."""

    batch_size, batches_in_flight = 48, 3

    def _begin(self, pixels):
        features = self._features(pixels.copy())
        return lambda: features


@pytest.mark.parametrize("workers", ["threads", "processes:2"])
def test_a_network_may_be_late(with_bad, workers):
    """The pixels of a batch are gone before its features are taken."""
    files, _ = with_bad
    want = extract_features(files, Grid(), ReadOptions(0, 200, MILD, 2, 3))
    out = extract_features(files, network := Late(), ReadOptions(workers, 200, MILD, 2, 3))
    np.testing.assert_array_equal(out.plain, want.plain)
    np.testing.assert_array_equal(out.views, want.views)
    assert out.skipped == want.skipped
    assert max(network.batches) <= 48


@pytest.mark.parametrize("n", [0, 1, 100])
def test_a_late_network_answers_a_call(n):
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)
    np.testing.assert_array_equal(Late()(pixels), Grid()(pixels))


def test_stream_counts_through_the_list_in_batches(with_bad):
    files, reasons = with_bad
    network = Grid()
    batches = list(stream_features(files, network, ReadOptions()))
    for start, batch in zip(range(0, len(files), BATCH_SIZE), batches, strict=True):
        seen = sorted([*batch.rows.tolist(), *(row for row, _ in batch.skipped)])
        assert seen == list(range(start, min(start + BATCH_SIZE, len(files))))
    assert sum(network.batches) == len(files) - len(reasons)


def test_slow_images_keep_their_place(monkeypatch, paths):
    """The first image of a batch takes the longest time to read."""
    from hyperpq.datasets import decode

    def slow(path, **options):
        if path == paths[0]:
            time.sleep(0.2)
        return open_image(path, **options)

    monkeypatch.setattr(decode, "open_image", slow)
    out = extract_features(paths[:6], Grid(), ReadOptions(6))
    np.testing.assert_array_equal(out.plain, one_by_one(paths[:6])[0])


def test_too_large_images_are_skipped(tmp_path):
    Image.new("RGB", (1200, 1000)).save(tmp_path / "large.png")
    Image.new("RGB", (900, 1000)).save(tmp_path / "small.png")
    files = [bytes(tmp_path / "large.png"), bytes(tmp_path / "small.png")]
    out = extract_features(files, Grid(), ReadOptions(max_megapixels=1.0))
    assert out.rows.tolist() == [1]
    assert "megapixel" in out.skipped[0][1]


@pytest.mark.parametrize("n_views", [0, 3])
def test_no_files_and_no_good_files(tmp_path, n_views):
    options = ReadOptions(0, 200, MILD if n_views else None, n_views, 0)
    bad = bytes(tmp_path / "gone.jpg")
    for files in ([], [bad], [bad] * (BATCH_SIZE + 1)):
        network = Grid()
        out = extract_features(files, network, options)
        assert out.rows.shape == (0,)
        assert out.plain.shape == (0, 27)
        assert out.views.shape == (n_views, 0, 27)
        assert len(out.skipped) == len(files)
        assert network.batches == []


def test_progress_counts_every_file(with_bad):
    files, _ = with_bad

    class Count:
        done = 0

        def advance(self, n=1, **facts):
            self.done += n

    phase = Count()
    extract_features(files, Grid(), ReadOptions(), phase)
    assert phase.done == len(files)


def test_an_error_of_the_network_ends_the_threads(paths):
    class Failing(Grid):
        def _features(self, pixels):
            raise BackboneError("the network fails")

    with pytest.raises(BackboneError, match="fails"):
        extract_features(paths, Failing(), ReadOptions(3))
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_leaving_the_stream_early_ends_the_threads(paths):
    stream = stream_features(paths, Grid(), ReadOptions(3))
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]
