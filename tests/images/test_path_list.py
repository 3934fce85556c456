"""Builds of a list of paths: what counts, in which order, and what such an index can do."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_tools import Grid, build, fill, tree, update

from hyperpq import ImageIndex
from hyperpq.datasets.listing import Listing
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.build import PathList, path_list, update_index
from hyperpq.images.build.path_list import _Known
from hyperpq.images.skipped import from_csv


class Stopped(Grid):
    """A network that somebody interrupts."""

    def _features(self, pixels):
        features = super()._features(pixels)
        if self.seen > 8:
            raise KeyboardInterrupt
        return features


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return fill(tmp_path / "photos", 12)


def paths_of(index):
    """Paths by ids."""
    view = index.index.collection.view()
    return [os.fsdecode(path) for path in view.paths_of(view.ids)]


def listed(*lines, end="\n"):
    with open("list.txt", "w", encoding="utf-8", newline="") as out:
        out.write(end.join(lines))
    return PathList("list.txt", null=end == "\0")


def test_the_images_are_those_of_the_list_in_its_order_each_once(photos):
    (photos / "words.txt").write_text("words")
    (photos / "sketch.psd").write_bytes(b"8BPS")
    names = ["photos/007.png", "photos/002.png", f"{photos}/../photos/007.png", "photos/003.png"]
    other = ["", "photos/words.txt", "photos/sketch.psd", "photos/gone.png", "photos", "  "]
    index, report = build(listed("\ufeff" + names[0], *names[1:], *other, end="\r\n"), "index")
    assert paths_of(index) == [f"{photos}/{name}.png" for name in ("007", "002", "003")]
    assert (report.images, report.other) == (3, {".txt": 1})
    assert from_csv(Path("index/skipped.csv").read_bytes()) == report.skipped
    assert {os.path.basename(os.fsdecode(path)): why for path, why in report.skipped.items()} == {
        "sketch.psd": "images of the format PSD are not read",
        "gone.png": "no such file or directory",
        "photos": "is a folder",
    }
    assert index.query([photos / "002.png"], 1)[0].results[0].path == f"{photos}/002.png"


def test_it_is_the_index_that_a_folder_makes(photos):
    names = sorted(str(path) for path in photos.iterdir())
    a, _ = build(listed(*names, end="\0"), "a")
    b, _ = build([photos], "b")
    view, other = a.index.collection.view(), b.index.collection.view()
    np.testing.assert_array_equal(view.codes_of(view.ids), other.codes_of(other.ids))
    assert paths_of(a) == paths_of(b)


def test_a_name_may_have_an_end_of_line(photos):
    odd = photos / " two\nlines\r"
    (photos / "001.png").rename(odd)
    index, _ = build(listed(str(odd), "photos/002.png", end="\0"), "index")
    assert paths_of(index) == [str(odd), f"{photos}/002.png"]


def test_an_interrupted_build_goes_on_with_its_list(photos, monkeypatch):
    monkeypatch.setattr("hyperpq.images.build.stages.SEGMENT_SIZE", 4)
    names = [f"photos/{i:03}.png" for i in (5, 1, 9, 0, 7, 2, 3)]
    whole, _ = build(listed(*names), "whole", train_size=2)
    with pytest.raises(KeyboardInterrupt):
        build(PathList("list.txt"), "index", Stopped(), train_size=2)
    os.remove("list.txt")
    with pytest.raises(InvalidInputError, match="other folders or options"):
        build(PathList("list.txt", null=True), "index", train_size=2, resume=True)
    build(PathList("list.txt"), "index", train_size=2, resume=True)
    assert tree(photos.parent / "index") == tree(photos.parent / "whole")
    assert len(whole) == 7


def test_an_index_of_a_list_is_added_to_and_not_updated(photos):
    index, _ = build(listed("photos/001.png", "photos/002.png"), "index")
    for call in (update, build):
        with pytest.raises(InvalidInputError, match="a list of paths makes a new one"):
            call(PathList("list.txt"), "index")
    with pytest.raises(InvalidInputError, match="records no folder"):
        update_index(None, "index", backbone=Grid())
    index.add([photos / "001.png", photos / "003.png"])
    assert len(ImageIndex.open("index", backbone=Grid())) == 3
    again, _ = build(listed("photos/004.png"), "index", overwrite=True)
    assert paths_of(again) == [f"{photos}/004.png"]


def test_what_is_no_list(photos):
    with pytest.raises(InvalidInputError, match=r"gone.txt cannot be read \(No such file"):
        build(PathList("gone.txt"), "index")
    with pytest.raises(InvalidInputError, match=r"001.png has the content of an image \(PNG\)"):
        build(PathList(photos / "001.png"), "index")
    with pytest.raises(InvalidInputError, match="has a NUL, which no path holds"):
        build(PathList(listed("a", "b", end="\0").file), "index")
    with pytest.raises(InvalidInputError, match="a path of more than 4,096 bytes"):
        build(listed("a", "b" * 5000), "index")
    with pytest.raises(InvalidInputError, match="exclude is given with a list"):
        build(listed("photos/001.png"), "index", exclude=["*.png"])
    with pytest.raises(DatasetError, match=r"has no path of an image \(it is empty\)"):
        build(listed("", " "), "index")
    with pytest.raises(DatasetError, match=r"\(1 skipped, such as .*/x.png \(no such file"):
        build(listed("x.png"), "index")
    assert not os.path.exists("index")
    assert not os.path.exists("index.building")


@given(st.lists(st.binary(min_size=1, max_size=2), max_size=60), st.integers(1, 7))
def test_a_path_is_new_once(paths, size):
    known, seen = _Known(), set()
    for start in range(0, len(paths), size):
        part = paths[start : start + size]
        want = [path not in seen and not seen.add(path) for path in part]
        assert known.are_new(part).tolist() == want


@given(st.lists(st.text("ab \r", min_size=1, max_size=5), max_size=30), st.integers(1, 9))
def test_names_are_those_of_the_lines_whatever_the_blocks(lines, size):
    text = "\n".join(lines).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(path_list, "_BLOCK", size)
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        names = [*PathList(None)._names()]
    kept = [line.removesuffix("\r") for line in "\n".join(lines).split("\n")]
    assert names == [line.encode() for line in kept if line.strip()]


def test_the_command(photos):
    def run(*args, **options):
        command = [sys.executable, "-m", "hyperpq", "build", "--index", "index", *args]
        return subprocess.run(command, capture_output=True, **options)

    names = b"photos/003.png\0photos/001.png\0"
    done = run("--images-from", "-", "-0", "--epochs", "1", "--features", "none", input=names)
    assert done.returncode == 0, done.stderr
    assert [os.path.basename(path) for path in paths_of(ImageIndex.open("index"))] == [
        "003.png",
        "001.png",
    ]
    for args, said in (
        (("photos", "--images-from", "-"), b"--images-from and DIR exclude each other"),
        (("photos", "-0"), b"--null is for the paths of --images-from"),
        (("--images-from", "-"), b"there is an index already"),
    ):
        done = run(*args, input=b"")
        assert said in done.stderr
        assert done.returncode in (1, 2)
        assert b"Traceback" not in done.stderr


def test_the_paths_of_a_list_are_not_kept(photos):
    """16 bytes of each are, and as many again while they are sorted."""

    def peak(n):
        with open("list.txt", "wb") as out:
            for i in range(n):
                out.write(b"%s/%0100d.png\n" % (os.fsencode(photos), i))
        found = Listing(skipped=_Nothing())
        tracemalloc.start()
        with pytest.raises(DatasetError, match="has no path of an image"):
            next(PathList("list.txt").images(found, lambda n: None))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(160_000) - peak(40_000) < 120_000 * 48


class _Nothing(dict):
    """Keeps nothing of what is put into it."""

    def __setitem__(self, key, value):
        pass
