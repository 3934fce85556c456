"""Disks that are not mounted: their images stay, whatever else has been listed."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import replace

import pytest
from image_tools import Grid, build, fill, paths_of, tree, update

from hyperpq import ImageIndex
from hyperpq.errors import DatasetError
from hyperpq.images import roots as roots_module
from hyperpq.images.build import update_index
from hyperpq.images.roots import mount_point, recorded_roots
from hyperpq.index.path_map import parse_roots, with_roots


class Disks:
    """Says what is a mount point, instead of the system."""

    def __init__(self, folder):
        self.folder, self.mounted = folder, {b"/"}

    def mount(self, name):
        self.mounted.add(os.fsencode(self.folder / name))

    def unmount(self, name):
        """The folder that the disk was mounted at vanishes with it, as on a desktop."""
        self.mounted.discard(os.fsencode(self.folder / name))
        (self.folder / name).rename(self.folder.with_name(f"{self.folder.name}-{name}"))

    def mount_again(self, name, at=None):
        self.mount(at or name)
        self.folder.with_name(f"{self.folder.name}-{name}").rename(self.folder / (at or name))


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """``home`` with 3 images, ``media/p`` with 10, and their index; not to be used."""
    folder = tmp_path_factory.mktemp("disks")
    fill(folder / "home", 3)
    fill(folder / "media/p/a", 6, start=10)
    fill(folder / "media/p/b", 4, start=20)
    build([folder / "home", folder / "media/p"], folder / "index")
    # What is copied from here is at the same place relative to the index, and nowhere else.
    return folder.rename(folder.with_name("moved-disks"))


@pytest.fixture
def disks(built_once, tmp_path, monkeypatch):
    shutil.copytree(built_once, tmp_path, dirs_exist_ok=True)
    disks = Disks(tmp_path)
    monkeypatch.setattr(roots_module, "is_mount_point", lambda path: path in disks.mounted)
    return disks


@pytest.fixture
def place(disks):
    """The index of ``home`` and of ``media/p``, where ``media`` is a disk of its own."""
    disks.mount("media")
    update_all(disks.folder)
    return disks.folder


def opened(place):
    return ImageIndex.open(place / "index", device="cpu", backbone=Grid())


def update_all(place, **options):
    return update_index(None, place / "index", backbone=Grid(), **options)


def names_of(index):
    (folder,) = {os.path.dirname(index.index.path)}
    return {os.path.relpath(path, folder) for path in paths_of(index)}


@pytest.mark.parametrize("is_known", [True, False])
def test_a_copy_of_half_of_a_disk_that_is_away_removes_nothing(place, disks, is_known, caplog):
    """The rows of the other half were removed, as if the folder had moved."""
    if not is_known:
        forget_mounts(place)
    before = names_of(opened(place))
    shutil.copytree(place / "media/p/a", place / "copy/a")
    disks.unmount("media")
    network = Grid()
    index, report = update([place / "copy"], place / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (6, 6, 0, 0)
    assert report.places == {}
    assert names_of(index) == before | {f"copy/a/01{i}.png" for i in range(6)}
    (message,) = warnings(caplog)
    assert "6 of its 10 images" in message and "hyperpq forget" in message
    caplog.clear()
    # All folders that are recorded: the one that is away is reported, and said nothing more of.
    index, report = update_all(place)
    assert (report.added, report.removed, report.moved, len(index)) == (0, 0, 0, 19)
    assert report.skipped == {os.fsencode(place / "media/p"): "does not exist; its images are kept"}
    assert index.forget(missing=True).removed == 0
    assert not warnings(caplog)
    disks.mount_again("media")
    index, report = update_all(place)
    assert (report.added, report.removed, report.skipped, len(index)) == (0, 0, {}, 19)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("roots")]


def forget_mounts(place):
    """As in an index that an earlier version made."""
    index = opened(place).index
    roots = [replace(root, mount=None) for root in parse_roots(index.metadata)]
    index.metadata = with_roots(index.metadata, roots)
    assert "mount" not in index.metadata["pictures"]["roots"][0]


def test_a_single_copy_of_an_image_of_a_disk_that_is_away_is_new(place, disks):
    (place / "home/more").mkdir()
    shutil.copy2(place / "media/p/a/010.png", place / "home/more/010.png")
    disks.unmount("media")
    index, report = update([place / "home"], place / "index")
    assert (report.added, report.moved, len(index)) == (1, 0, 14)


def test_a_disk_that_is_mounted_elsewhere(place, disks):
    """All of its images are there, so they have moved."""
    before = opened(place).index.ids.tolist()
    disks.unmount("media")
    disks.mount_again("media", at="media1")
    network = Grid()
    index, report = update([place / "media1/p"], place / "index", network)
    assert (network.seen, report.added, report.removed, len(report.places)) == (0, 0, 0, 1)
    assert index.index.ids.tolist() == before
    assert mounts(index) == {"home": "/", "media1/p": "media1"}


def mounts(index):
    """Mount point by folder, relative to the folder of the index where they are in it."""
    place = os.path.dirname(index.index.path)
    return {
        os.path.relpath(os.fsdecode(root.path), place): os.fsdecode(
            root.mount if root.mount == b"/" else os.path.relpath(root.mount, os.fsencode(place))
        )
        for root in recorded_roots(index.index)
    }


def test_half_of_a_folder_of_a_disk_that_is_mounted_has_moved(place, disks):
    """The folder is gone from it."""
    (place / "media/p/b/020.png").unlink()
    (place / "media/p").rename(place / "media/q")
    index, report = update([place / "media/q"], place / "index")
    assert (report.added, report.removed, len(report.places), len(index)) == (0, 1, 1, 12)
    assert mounts(index) == {"home": "/", "media/q": "media"}
    # It moves to another disk, into a folder that is recorded.
    (place / "media/q").rename(place / "home/q")
    index, report = update([place / "home"], place / "index")
    assert (report.added, report.removed, len(report.places), len(index)) == (0, 0, 1, 12)
    assert mounts(index) == {"home": "/", "home/q": "/"}


def test_the_mount_point_of_a_folder_is_that_of_where_it_leads_to(disks):
    place = disks.folder
    disks.mount("media")
    fill(place / "media/deep/p", 1, start=40)
    (place / "link").symlink_to("media/deep")
    for name in ("media", "media/deep/p", "link/p", "link/p/040.png"):
        assert mount_point(os.fsencode(place / name)) == os.fsencode(place / "media")
    assert mount_point(os.fsencode(place / "home")) == b"/"
    assert mount_point(os.fsencode(place / "nowhere")) is None
    # A link to a disk that is away: what is below it does not exist.
    update([place / "home", place / "link/p"], place / "index")
    shutil.copytree(place / "media/deep/p", place / "copy")
    fill(place / "media/deep/p", 1, start=41)
    index, _ = update_all(place)
    assert mounts(index) == {"home": "/", "media/p": "media", "link/p": "media"}
    disks.unmount("media")
    index, report = update([place / "copy"], place / "index")
    assert (report.added, report.removed, report.places, len(index)) == (1, 0, {}, 16)


def test_where_a_disk_was_mounted_there_is_another_image(place, disks):
    """Its images were removed: the folder was not empty."""
    before = names_of(opened(place))
    disks.unmount("media")
    fill(place / "media/p", 1, start=70)
    with pytest.raises(DatasetError, match=r"/p is on a disk that is not mounted, and .* 10 of"):
        update([place / "home", place / "media/p"], place / "index")
    index, report = update_all(place)
    assert (report.added, report.removed, report.kept) == (1, 0, 0)
    assert names_of(index) == before | {"media/p/070.png"}
    assert "is on a disk that is not mounted" in report.skipped[os.fsencode(place / "media/p")]
    assert mounts(index) == {"home": "/", "media/p": "media"}
    # The images have been copied there, and need no disk of their own any more.
    away = place.with_name(f"{place.name}-media")
    shutil.copytree(away, place / "media", dirs_exist_ok=True)
    (place / "media/p/a/010.png").unlink()
    index, report = update_all(place)
    assert (report.added, report.removed, report.skipped, len(index)) == (0, 1, {}, 13)
    assert mounts(index) == {"home": "/", "media/p": "/"}


def test_an_empty_folder_where_a_disk_was_mounted_is_not_taken_for_its_file_system(place, disks):
    disks.unmount("media")
    (place / "media/p").mkdir(parents=True)
    fill(place / "home", 1, start=5)
    for change in (lambda: update_all(place), lambda: add(place, "home", "media/p")):
        change()
        assert mounts(opened(place)) == {"home": "/", "media/p": "media"}


def add(place, *names):
    roots = [place / name for name in names]
    return update_index(roots, place / "index", remove_missing=False, backbone=Grid())


def test_an_index_of_an_earlier_version_gets_the_mount_points_once(place):
    forget_mounts(place)
    index = opened(place)
    snapshot = index.index.collection.snapshot
    assert [root.mount for root in recorded_roots(index.index)] == [None, None]
    index, report = update_all(place)
    assert (report.added, report.removed) == (0, 0)
    assert index.index.collection.snapshot == snapshot + 1
    assert mounts(index) == {"home": "/", "media/p": "media"}
    before = tree(place / "index")
    update_all(place)
    update([place / "media/p"], place / "index")
    assert tree(place / "index") == before


def test_a_copy_of_an_index_has_the_mount_points(place, tmp_path):
    opened(place).index.save(place / "copy")
    (place / "index").rename(place / "first")
    (place / "copy").rename(place / "index")
    assert mounts(opened(place)) == {"home": "/", "media/p": "media"}


@pytest.mark.parametrize("seed", [3, 4, 10])
def test_whatever_is_done_while_a_disk_is_away_its_images_stay(place, disks, seed):
    """Copies of some of its images, deleted files, something else in its place, all commands."""
    choice, away = random.Random(seed), False
    kept = {name for name in names_of(opened(place)) if name.startswith("media/")}
    for number in range(100, 114):
        there = place.with_name(f"{place.name}-media") if away else place / "media"
        files = sorted(there.rglob("p/?/*.png"))
        action = choice.choice(["disk", "disk", "copy", "delete", "update", "update", "forget"])
        if action == "disk" and away:
            shutil.rmtree(place / "media", ignore_errors=True)
            disks.mount_again("media")
            away = False
        elif action == "disk":
            disks.unmount("media")
            away = True
            if choice.random() < 0.3:
                (place / "media/p").mkdir(parents=True)
            elif choice.random() < 0.5:
                fill(place / "media/p", 1, start=number)
        elif action == "copy":
            for path in choice.sample(files, choice.randrange(len(files))):
                copied = place / f"home/{number}" / path.relative_to(there)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copied)
        elif action == "delete":
            source = (place / "home").rglob("*.png") if away else files
            choice.choice(sorted(source)[1:]).unlink()
        elif action == "update":
            roots = choice.choice([None, [place / "home"]])
            update_index(roots, place / "index", backbone=Grid(), relearn="never")
        else:
            opened(place).forget(missing=True)
        names = names_of(opened(place))
        now = {name for name in names if name.startswith("media/")}
        assert kept <= now if away else True
        kept = kept if away else now
    if away:
        shutil.rmtree(place / "media", ignore_errors=True)
        disks.mount_again("media")
    index, _ = update_index(None, place / "index", backbone=Grid(), relearn="never")
    assert names_of(index) == {
        os.path.relpath(path, place)
        for root in ("home", "media")
        for path in (place / root).rglob("*.png")
    }
