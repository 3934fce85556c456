"""Updates of all folders that an index records."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace

import pytest
from image_tools import Grid, build, fill, image, paths_of, tree, update
from moved_images import (
    opened,
    roots_of,
    rows_of,
    single_images,
)

from hyperpq import ImageIndex
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images.build import update_index
from hyperpq.images.build.update import update_images
from hyperpq.images.roots import recorded_roots
from hyperpq.images.skipped import from_csv
from hyperpq.index.path_map import with_roots


def test_recorded_folders_are_brought_up_to_date_with_their_options(tmp_path):
    p, q = (fill(tmp_path / name, 3, start) for name, start in (("p", 0), ("q", 10)))
    for root in (p, q):
        fill(root / "raw", 2, 50)
        fill(root / ".hidden", 1, 70)
    build([p], tmp_path / "index", exclude=["raw"])
    options = {"include_hidden": True, "exclude": ["raw", "012.png"], "backbone": Grid()}
    index, report = update_index([q], tmp_path / "index", remove_missing=False, **options)
    assert report.added == 3
    fill(p, 1, 20)
    fill(p / "raw", 1, 21)
    fill(q / ".hidden", 1, 22)
    (p / "000.png").unlink()
    (q / "010.png").rename(p / "moved.png")
    index, report = update_index(None, tmp_path / "index", backbone=Grid())
    assert (report.added, report.removed, report.moved, len(index)) == (2, 1, 1, 7)
    names = {os.path.relpath(path, tmp_path) for path in paths_of(index)}
    assert {"p/moved.png", "p/020.png", "q/.hidden/022.png", "q/.hidden/070.png"} < names
    assert not any("raw" in name for name in names)
    roots = recorded_roots(index.index)
    assert [root.exclude for root in roots] == [("raw",), ("raw", "012.png")]
    assert [root.include_hidden for root in roots] == [False, True]


def test_a_recorded_folder_that_is_away_is_left_out(place):
    fill(place / "q", 3, start=50)
    index, _ = update([place / "p", place / "q"], place / "index")
    fill(place / "q", 1, start=60)
    (place / "p").rename(place.parent / f"{place.name}-p")
    for count, make in ((14, lambda: None), (15, (place / "p").mkdir)):
        make()
        index, report = update_index(None, place / "index", backbone=Grid())
        assert (report.removed, len(index)) == (0, count)
        assert report.skipped.keys() == {os.fsencode(place / "p")}
        assert "its images are kept" in report.skipped[os.fsencode(place / "p")]
        fill(place / "q", 1, start=61)
    (place / "p").rmdir()
    (place.parent / f"{place.name}-p").rename(place / "p")
    report = update_images(opened(place))
    assert (report.added, report.removed, report.skipped) == (0, 0, {})
    before = tree(place / "index")
    for root in "pq":
        shutil.rmtree(place / root)
    with pytest.raises(DatasetError, match=r"none of the folders of .* has an image now"):
        update_index(None, place / "index", backbone=Grid())
    assert tree(place / "index") == before


def test_a_recorded_folder_that_is_away_in_another_one(place):
    """Its images were removed, as those of a folder that the other one had lost."""
    fill(place / "p/disk", 3, start=50)
    update([place / "p", place / "p/disk"], place / "index")
    (place / "p/disk").rename(place / "disk")
    for make in (lambda: None, (place / "p/disk").mkdir):
        make()
        index, report = update_index(None, place / "index", backbone=Grid())
        assert (report.removed, report.kept, len(index)) == (0, 3, 13)
        assert report.skipped.keys() == {os.fsencode(place / "p/disk")}
    (place / "disk/050.png").rename(place / "p/a/050.png")
    (place / "p/disk").rmdir()
    report = index.update()
    assert (report.moved, report.added, report.removed, report.kept) == (1, 0, 0, 2)
    (place / "disk").rename(place / "p/disk")
    report = index.update()
    assert (report.added, report.removed, report.kept, report.skipped) == (0, 0, 0, {})


def test_a_recorded_folder_that_is_away_in_a_folder_that_is_named(place):
    """Its images were removed, unless all folders were brought up to date."""
    fill(place / "p/disk", 3, start=50)
    fill(place / "p/single", 1, start=60)
    roots = [place / name for name in ("p", "p/disk", "p/single/060.png")]
    update(roots, place / "index")
    (place / "p/disk").rename(place / "disk")
    (place / "p/a/000.png").unlink()
    # A single image of the folder is gone, as any other.
    (place / "p/single/060.png").unlink()
    removed = 2
    for what in ("does not exist", "has no image", "is recorded as a folder, but is no folder now"):
        if what == "has no image":
            (place / "p/disk").mkdir()
        elif what == "is recorded as a folder, but is no folder now":
            (place / "p/disk").rmdir()
            (place / "p/disk").write_text("words")
        index, report = update([place / "p"], place / "index")
        assert (report.removed, report.kept, len(index)) == (removed, 3, 12)
        assert report.skipped == {os.fsencode(place / "p/disk"): f"{what}; its images are kept"}
        removed = 0
    (place / "p/disk").unlink()
    (place / "disk").rename(place / "p/disk")
    index, report = update([place / "p"], place / "index")
    assert (report.added, report.removed, report.kept, report.skipped) == (0, 0, 0, {})
    shutil.rmtree(place / "p/disk")
    index, report = update([place / "p"], place / "index", allow_empty=True)
    assert (report.removed, len(index)) == (3, 9)


def test_a_folder_in_a_named_one_that_cannot_be_examined(place, monkeypatch):
    """What is known of it says its listing."""
    fill(place / "p/disk", 3, start=50)
    update([place / "p", place / "p/disk"], place / "index")
    real = os.scandir

    def scandir(path):
        if os.fspath(path) == os.fsencode(place / "p/disk"):
            raise OSError(errno.EIO, "input/output error")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    index, report = update([place / "p"], place / "index")
    assert (report.removed, report.kept, len(index)) == (0, 3, 13)
    assert report.skipped == {os.fsencode(place / "p/disk"): "input/output error"}


@pytest.mark.parametrize("is_image", [False, True])
def test_a_recorded_folder_that_is_a_file_now(place, is_image):
    """Its images were removed, as if the file were one of them."""
    fill(place / "q", 3, start=50)
    update([place / "p", place / "q"], place / "index")
    (place / "p").rename(place.parent / f"{place.name}-p")
    if is_image:
        image(90).save(place / "p", "PNG")
    else:
        (place / "p").write_text("words")
    before = tree(place / "index")
    with pytest.raises(
        DatasetError,
        match=r"/p is recorded as a folder, but is no folder now, and .* has 10 of its ima",
    ):
        update([place / "p", place / "q"], place / "index")
    assert tree(place / "index") == before
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.added, report.removed, len(index)) == (0, 0, 13)
    reason = "is recorded as a folder, but is no folder now; its images are kept"
    assert report.skipped == {os.fsencode(place / "p"): reason}
    index, report = update_index(
        [place / "p", place / "q"], place / "index", remove_missing=False, backbone=Grid()
    )
    assert (report.added, report.skipped) == (0, {os.fsencode(place / "p"): reason})
    index, report = update([place / "p", place / "q"], place / "index", allow_empty=True)
    assert report.removed == 10
    # A single image is a file.
    update([place / "q/050.png"], place / "index")
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.added, report.removed, report.kept) == (0, 0, 0)


def test_a_single_image_that_moved_is_followed(place):
    """Its former place was reported by every update until it was forgotten."""
    a, b, c = single_images(place, "a.png", "b.png", "c.png")
    before = rows_of(opened(place))
    a.rename(place / "one/renamed.png")
    b.rename(place / "p/b.png")
    # What is not listed has not moved yet.
    network = Grid()
    _, report = update([place / "p"], place / "index", network)
    assert (report.moved, report.added, report.removed, report.skipped) == (1, 0, 0, {})
    assert roots_of(place) == {str(a), str(c), str(place / "p")}
    _, report = update([place / "one/renamed.png"], place / "index", network)
    assert (report.moved, report.added, report.removed, network.seen) == (1, 0, 0, 0)
    assert roots_of(place) == {str(c), str(place / "p"), str(place / "one/renamed.png")}
    after = rows_of(opened(place))
    assert after[str(place / "one/renamed.png")] == before[str(a)]
    assert after[str(place / "p/b.png")] == before[str(b)]
    _, report = update_index(None, place / "index", backbone=network)
    assert (report.moved, report.added, report.removed, report.skipped) == (0, 0, 0, {})


def test_a_single_image_that_is_gone_is_removed_as_one_of_a_folder(place):
    """It was kept and reported as away until it was forgotten."""
    a, b = single_images(place, "a.png", "b.png")
    a.unlink()
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.removed, report.kept, report.skipped) == (1, 0, {})
    assert str(a) not in paths_of(index)
    assert roots_of(place) == {str(b), str(place / "p")}
    # Its folder is empty, as an unused mount point is.
    b.rename(place / "b.png")
    (place / "one/note.txt").unlink()
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.removed, len(index)) == (0, 11)
    assert report.skipped == {os.fsencode(b): "does not exist; its images are kept"}
    (place / "one/note.txt").write_text("it is none")
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.removed, len(index)) == (1, 10)
    assert from_csv((place / "index/skipped.csv").read_bytes()) == {}


def test_a_single_image_of_a_disk_that_is_away_is_kept(place, monkeypatch):
    (a,) = single_images(place, "a.png")
    a.unlink()
    index = opened(place)
    roots = [
        replace(root, mount=os.fsencode(place / "one")) for root in recorded_roots(index.index)
    ]
    index.index.metadata = with_roots(index.index.metadata, roots)
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.removed, len(index)) == (0, 11)
    assert report.skipped.keys() == {os.fsencode(a)}


@pytest.mark.parametrize("kind", ["pipe", "closed"])
def test_a_recorded_folder_that_cannot_be_examined_is_left_out(place, monkeypatch, kind):
    """No other folder was brought up to date."""
    fill(place / "q", 3, start=50)
    update([place / "p", place / "q"], place / "index")
    (place / "p").rename(place / "away")
    if kind == "pipe":
        os.mkfifo(place / "p")
        reason = "is neither a file nor a folder"
    else:
        (place / "p").mkdir()
        real = os.scandir

        def scandir(path):
            if os.fspath(path) == os.fsencode(place / "p"):
                raise OSError(errno.EACCES, "Permission denied")
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)
        reason = "cannot be read (Permission denied)"
    before = recorded_roots(opened(place).index)
    fill(place / "q", 1, start=60)
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.added, report.removed, len(index)) == (1, 0, 14)
    assert report.skipped == {os.fsencode(place / "p"): f"{reason}; its images are kept"}
    assert recorded_roots(index.index) == before
    with pytest.raises(DatasetError, match=r"/p .*; give a readable folder of images"):
        update([place / "p", place / "q"], place / "index")
    (place / "q").rename(place / "away-q")
    with pytest.raises(
        DatasetError, match=r"none of the folders .*, such as /.*/p, which (is|cannot)"
    ):
        update_index(None, place / "index", backbone=Grid())


@pytest.mark.parametrize("wrong", [5, [None], ["a", 5], "a\0b", [b"\0"], [], "", ["a", ""]])
def test_what_is_no_path(place, wrong):
    before = tree(place / "index")
    index = opened(place)
    for call in (index.update, index.forget):
        with pytest.raises(InvalidInputError, match=r"^roots "):
            call(wrong)
    assert tree(place / "index") == before


def test_a_folder_that_does_not_exist_is_named_before_the_network_is_loaded(place, monkeypatch):
    monkeypatch.setattr(ImageIndex, "open", lambda *_, **__: pytest.fail("the index was loaded"))
    with pytest.raises(DatasetError, match=r"nowhere does not exist; give an existing folder"):
        update_index([place / "nowhere"], place / "index", remove_missing=False)
