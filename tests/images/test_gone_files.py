"""Files that are gone, and images that are forgotten."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from image_tools import Grid, fill, paths_of, tree, update
from moved_images import (
    opened,
    unchanged_rows,
)

from hyperpq.errors import InvalidInputError
from hyperpq.images import forget
from hyperpq.images.build import update_index
from hyperpq.images.changes import is_gone
from hyperpq.images.roots import recorded_roots
from hyperpq.index.path_map import parse_roots


def test_when_a_file_is_gone(tmp_path, monkeypatch):
    (tmp_path / "p/empty").mkdir(parents=True)
    (tmp_path / "p/a").write_bytes(b"")
    (tmp_path / "broken").symlink_to("nowhere")

    def gone(name):
        return is_gone(os.fsencode(tmp_path / name))

    assert gone("p/b") and gone("p/b/c") and gone("x/y/z") and gone("p/a/b")
    assert not gone("p/a") and not gone("p") and not gone("broken")
    # A disk may be mounted at an empty folder, or a link lead to it.
    assert not gone("p/empty/x") and not gone("p/empty/x/y") and not gone("broken/x")
    real = os.lstat

    def lstat(path, **options):
        if os.fspath(path) == os.fsencode(tmp_path / "p/b"):
            raise OSError(errno.EIO, "input/output error")
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    assert not gone("p/b")


def test_forget_images_and_folders(place):
    fill(place / "q", 3, start=50)
    index, _ = update([place / "p", place / "q"], place / "index")
    shutil.rmtree(place / "q")
    assert index.forget(place / "q").removed == 3
    assert [root.path for root in recorded_roots(index.index)] == [os.fsencode(place / "p")]
    report = index.forget([place / "p/a/000.png", place / "p/b"])
    assert (report.removed, report.kept, len(index)) == (5, 0, 5)
    # The report says that they are added again.
    assert report.again == {os.fsencode(place / "p"): 5}
    before = tree(place / "index")
    with pytest.raises(InvalidInputError, match=r"/nowhere has no image in .*index; expected"):
        index.forget([place / "p", place / "nowhere"])
    with pytest.raises(InvalidInputError, match="neither paths, missing nor where is given"):
        index.forget()
    assert tree(place / "index") == before
    # What is still there is added again with its folder.
    index, report = update([place / "p"], place / "index")
    assert (report.added, len(index)) == (5, 10)
    report = index.forget(place)
    assert (report.removed, report.again) == (10, {})
    with pytest.raises(InvalidInputError, match="records no folder"):
        update_index(None, place / "index", backbone=Grid())


def test_forget_by_a_condition(place):
    """The report says that they are added again, as with folders."""
    index = opened(place)
    index.add((place / "p/a/001.png").read_bytes(), "without a file")
    before = tree(place / "index")
    for given in ({"paths": place / "p"}, {"missing": True}):
        with pytest.raises(InvalidInputError, match="where is given with paths or missing"):
            index.forget(where="folder == 'c'", **given)
    with pytest.raises(InvalidInputError, match="folded"):
        index.forget(where="folded == 'c'")
    assert tree(place / "index") == before
    (place / "p/b/c/010.png").unlink()
    report = index.forget(where="folder == 'c' or path == 'without a file'")
    assert (report.removed, report.kept, len(index)) == (5, 0, 6)
    assert report.again == {os.fsencode(place / "p"): 3}
    assert index.forget(where="folder == 'c'").removed == 0
    _, report = update_index(None, place / "index", backbone=Grid())
    assert report.added == 3


def test_what_was_added_at_the_former_place_of_a_folder_that_is_forgotten(place):
    """Its path had a colon before it once no recorded folder was at another place."""
    index = opened(place)
    (root,) = parse_roots(index.index.metadata)
    assert root.stored != root.path
    name = os.fsdecode(root.stored) + "/new.png"
    index.add((place / "p/a/000.png").read_bytes(), name)
    assert name in paths_of(index)
    index.forget(place / "p")
    for opening in (index, opened(place)):
        assert paths_of(opening) == [name]
        assert len(opening.query(place / "p/a/000.png", where=f"path == '{name}'")[0].results) == 1
        assert opening.index.collection.view().path_map.pairs == ()
    index.add((place / "p/a/001.png").read_bytes(), name)
    assert paths_of(index) == [name]


def test_forget_what_is_missing(place):
    roots = [place / "p", *(fill(place / name, 2, 10 * i) for i, name in enumerate("qrst", 3))]
    index, _ = update(roots, place / "index")
    (place / "p/a/000.png").unlink()
    shutil.rmtree(place / "p/b")
    shutil.rmtree(place / "q")
    # These may be disks that are not mounted.
    shutil.rmtree(place / "r")
    (place / "r").mkdir()
    (place / "s").rename(place / "away")
    (place / "s").symlink_to("nowhere")
    report = index.forget(place / "p", missing=True)
    assert (report.removed, report.kept, report.again, len(index)) == (5, 0, {}, 13)
    before = opened(place)
    report = index.forget(missing=True)
    assert (report.removed, report.kept, len(index)) == (2, 4, 11)
    assert unchanged_rows(index, before)
    recorded = [os.path.basename(root.path) for root in recorded_roots(index.index)]
    assert recorded == [b"p", b"r", b"s", b"t"]
    assert index.forget(missing=True).removed == 0


def test_an_image_that_another_process_finds_is_not_forgotten(place, monkeypatch):
    """It has moved, and the other process has listed its new folder."""
    index = opened(place)
    (place / "p").rename(place / "q")
    real = forget.recorded_roots

    def recorded(index):
        monkeypatch.setattr(forget, "recorded_roots", real)
        update([place / "q"], place / "index")
        return real(index)

    monkeypatch.setattr(forget, "recorded_roots", recorded)
    assert index.forget(missing=True).removed == 0
    assert len(opened(place)) == 10
