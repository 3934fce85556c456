"""Two processes that bring one index up to date at the same time: nothing is lost or twice."""

from __future__ import annotations

import os

import pytest
from image_tools import Grid, build, fill, image, paths_of, update

from hyperpq import ImageIndex
from hyperpq.errors import StoreError
from hyperpq.images import updater
from hyperpq.images.build import pipeline
from hyperpq.images.skipped import from_csv


@pytest.fixture
def meanwhile(monkeypatch):
    """Run a function once, after the images of a batch have been read."""

    def during(work, batch=1):
        real = updater.stream_groups

        def stream(*arguments):
            for number, features in enumerate(real(*arguments), 1):
                if number == batch:
                    monkeypatch.setattr(updater, "stream_groups", real)
                    work()
                yield features

        monkeypatch.setattr(updater, "stream_groups", stream)

    return during


def names_of(path):
    return sorted(map(os.path.basename, paths_of(ImageIndex.open(path, backbone=Grid()))))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_other_one_adds_the_same_images(tmp_path, monkeypatch, meanwhile, batch):
    """The second one failed, and what it had encoded was lost."""
    monkeypatch.setattr(updater, "SEGMENT_SIZE", 3)
    folder = fill(tmp_path / "p", 4)
    build([folder], tmp_path / "index")
    fill(folder, 5, 10)
    image(77).save(folder / "000.png")
    meanwhile(lambda: update([folder], tmp_path / "index"), batch)
    index, report = update([folder], tmp_path / "index")
    assert names_of(tmp_path / "index") == sorted(p.name for p in folder.iterdir())
    assert (len(index), index.index.ntotal) == (9, 9)
    # What the first one had added is not added again.
    assert report.added == 3 * (batch - 1)
    _, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed) == (0, 0)


def test_the_other_one_adds_and_removes_other_images(tmp_path, meanwhile):
    one, other = fill(tmp_path / "a", 3), fill(tmp_path / "b", 3, 20)
    (other / "bad.jpg").write_bytes(b"")
    build([one, other], tmp_path / "index")
    fill(one, 2, 10)
    (one / "worse.jpg").write_bytes(b"")
    (one / "000.png").unlink()

    def work():
        (other / "020.png").unlink()
        fill(other, 1, 30)
        update([other], tmp_path / "index")

    meanwhile(work)
    index, report = update([one], tmp_path / "index")
    want = sorted(p.name for p in [*one.iterdir(), *other.iterdir()] if p.suffix == ".png")
    assert names_of(tmp_path / "index") == want
    assert (report.added, report.removed, len(index)) == (2, 1, 7)
    skipped = from_csv((tmp_path / "index/skipped.csv").read_bytes())
    assert sorted(os.path.basename(path) for path in skipped) == [b"bad.jpg", b"worse.jpg"]


def test_the_other_one_removes_the_same_image(tmp_path, monkeypatch):
    """Both counted it as removed by themselves."""
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    (folder / "000.png").unlink()
    real, reports = updater.compare, []

    def compare(*arguments):
        changes = real(*arguments)
        monkeypatch.setattr(updater, "compare", real)
        reports.append(update([folder], tmp_path / "index")[1])
        return changes

    monkeypatch.setattr(updater, "compare", compare)
    index, report = update([folder], tmp_path / "index")
    assert [reports[0].removed, report.removed, len(index)] == [1, 0, 2]


def test_an_update_that_starts_when_a_build_has_just_moved_its_index(tmp_path, monkeypatch):
    """It removed the working directory, and the build then ended with an error."""
    folder = fill(tmp_path / "p", 3)
    real = pipeline.replace_directory

    def replace(*arguments):
        real(*arguments)
        fill(folder, 1, 10)
        update([folder], tmp_path / "index")

    monkeypatch.setattr(pipeline, "replace_directory", replace)
    index, report = build([folder], tmp_path / "index")
    assert (report.images, len(index)) == (3, 4)
    assert sorted(os.listdir(tmp_path)) == ["index", "p"]


def test_a_reader_is_refused_before_anything_is_read(tmp_path, meanwhile):
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    images = ImageIndex.open(tmp_path / "index", backbone=Grid())
    images.index = type(images.index).load(tmp_path / "index", device="cpu", read_only=True)
    meanwhile(lambda: pytest.fail("images were read"))
    with pytest.raises(StoreError, match="opened read-only"):
        images.update([])
