"""Updates: what is removed from an index, what is kept, and absurd times."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_tools import Grid, build, fill, image, paths_of, tree, update

from hyperpq import ImageIndex
from hyperpq.datasets.listing import ImageFile, Listing, RootOptions
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images import updater
from hyperpq.images.build import update_index
from hyperpq.images.build.lost_roots import find_lost_roots
from hyperpq.images.changes import ancestors, compare, is_unknown, stored_time
from hyperpq.images.listing import query_paths
from hyperpq.images.skipped import from_csv
from hyperpq.images.updater import Updater
from hyperpq.index.path_map import Root
from hyperpq.store.columns import TIME

NOBODY = 65534
UNREADABLE = [
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EMFILE, errno.ENOTCONN, errno.EBADMSG),
]


@contextmanager
def without_rights():
    """Act as a user without rights, as root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared():
    """A folder that a user without rights can reach and write, unlike that of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="hyperpq-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def give_away(folder):
    """Give a tree to the user without rights."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def failing(monkeypatch, call, name, code):
    """Let a call of `os` fail with an error for paths that end with ``name``."""
    real = getattr(os, call)

    def replacement(path, *rest, **options):
        if isinstance(path, bytes) and path.endswith(os.fsencode(name)):
            raise OSError(code, os.strerror(code), path)
        return real(path, *rest, **options)

    monkeypatch.setattr(os, call, replacement)


def change(path, seed):
    image(seed, (40, 40)).save(path)
    os.utime(path, (10**9 + seed, 10**9 + seed))


def rows_of(index):
    """Id, size and time of each image by its name."""
    found = {}
    for rows in index.index.collection.view().batches():
        columns = rows.ids.tolist(), rows.attribute("size").tolist(), rows.attribute("mtime")
        for path, *state in zip(rows.paths, *columns, strict=True):
            found[os.path.basename(path).decode()] = state
    return found


def test_an_update_measures_cells_again_that_are_outgrown(tmp_path):
    folder = fill(tmp_path / "imgs", 8)
    index, _ = build([folder], tmp_path / "index", cells=2)

    def measured():
        return index.index.collection.view().recall_curve.n

    assert measured() == 8
    for total, expected in ((10, 8), (14, 14)):
        fill(folder, total)
        options = {"relearn": "never", "backbone": Grid(), "device": "cpu"}
        index, _ = update_index(None, tmp_path / "index", **options)
        assert (len(index), measured()) == (total, expected)


# What cannot be read


def test_what_cannot_be_read_is_not_gone(shared):
    """A folder, a file and a changed file without permission, for a user without rights."""
    folder = shared / "imgs"
    for i, name in enumerate(("patterns", "patterns/deep", "plain")):
        fill(folder / name, 4, start=10 * i)
    index, _ = build([folder], shared / "index")
    before = rows_of(index)
    change(folder / "plain/020.png", 90)
    change(folder / "plain/021.png", 91)
    (folder / "plain/022.png").unlink()
    (folder / "plain/020.png").chmod(0)
    (folder / "patterns").chmod(0)
    give_away(shared)
    with without_rights():
        index, report = update([folder], shared / "index")
        assert (report.removed, report.added, report.kept) == (2, 1, 9)
        expected = {bytes(folder / "patterns"), bytes(folder / "plain/020.png")}
        assert report.skipped.keys() == expected
        assert set(report.skipped.values()) == {"permission denied"}
        assert from_csv((shared / "index/skipped.csv").read_bytes()) == report.skipped
        rows = rows_of(index)
        assert before.keys() - rows.keys() == {"022.png"}
        assert [name for name in rows if rows[name] != before[name]] == ["021.png"]
        # The next time that they can be read, they are what they are.
        (folder / "patterns").chmod(0o755)
        (folder / "plain/020.png").chmod(0o644)
        (folder / "patterns/001.png").unlink()
        index, report = update([folder], shared / "index")
        assert (report.removed, report.added, report.kept, report.skipped) == (2, 1, 0, {})
        assert len(index) == 10


def test_a_build_skips_what_cannot_be_read(shared):
    folder = fill(shared / "p", 3)
    fill(folder / "closed", 2)
    build([folder], shared / "first")
    (folder / "001.png").chmod(0)
    (folder / "closed").chmod(0)
    give_away(shared)
    with without_rights():
        index, report = build([folder], shared / "index")
        assert len(index) == 2
        assert sorted(report.skipped) == [bytes(folder / "001.png"), bytes(folder / "closed")]
        assert set(report.skipped.values()) == {"permission denied"}


@pytest.mark.parametrize("code", UNREADABLE)
def test_a_folder_after_an_error_of_the_system_is_not_gone(tmp_path, monkeypatch, code):
    folder = fill(tmp_path / "p", 3)
    fill(folder / "sub/deep", 3, start=10)
    fill(folder / "subway", 1, start=20)
    build([folder], tmp_path / "index")
    (folder / "subway/020.png").unlink()
    failing(monkeypatch, "scandir", "/sub", code)
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (1, 3, 6)
    assert report.skipped == {bytes(folder / "sub"): os.strerror(code).lower()}


@pytest.mark.parametrize("code", UNREADABLE)
def test_a_link_after_an_error_of_the_system_is_not_gone(tmp_path, monkeypatch, code):
    folder = fill(tmp_path / "p", 2)
    (folder / "disk").symlink_to(fill(tmp_path / "mounted", 3, start=10))
    (folder / "one.png").symlink_to(fill(tmp_path / "other", 1, start=20) / "020.png")
    build([folder], tmp_path / "index")
    failing(monkeypatch, "stat", "/disk", code)
    failing(monkeypatch, "stat", "/one.png", code)
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (0, 4, 6)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR])
def test_a_folder_that_is_gone_is_gone(tmp_path, monkeypatch, code):
    """Removed between the listing of its parent and its own."""
    folder = fill(tmp_path / "p", 3)
    fill(folder / "sub", 3, start=10)
    build([folder], tmp_path / "index")
    failing(monkeypatch, "scandir", "/sub", code)
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (3, 0, 3)


def test_a_broken_link_may_lead_to_a_disk_that_is_not_mounted(tmp_path):
    folder = fill(tmp_path / "p", 2)
    (folder / "disk").symlink_to(fill(tmp_path / "mounted", 3, start=10))
    (folder / "one.png").symlink_to(fill(tmp_path / "other", 1, start=20) / "020.png")
    build([folder], tmp_path / "index")
    (tmp_path / "mounted").rename(tmp_path / "away")
    (tmp_path / "other/020.png").unlink()
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (0, 4, 6)
    assert set(report.skipped.values()) == {"broken link"}
    (folder / "disk").unlink()
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (3, 1, 3)
    (folder / "one.png").unlink()
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (1, 0, 2)


def test_indexes_in_a_folder_of_images_are_no_files_of_other_kinds(tmp_path):
    """The files of another index were counted as not read."""
    folder = fill(tmp_path / "b", 4)
    (folder / "notes.txt").write_text("words")
    (folder / "album").mkdir()
    (folder / "album/manifest.json").write_text('{"format": "another"}')
    fill(folder / "album", 1, start=10)
    build([folder], folder / "other")
    for _ in range(2):
        index, report = build([folder], folder / "index")
        assert (len(index), report.other) == (5, {".txt": 1, ".json": 1})
    named = query_paths([os.fspath(folder)], io.BytesIO())
    assert (list(map(os.fsdecode, named.paths)), named.skipped) == (paths_of(index), {})


def test_links_to_images_of_a_disk_that_is_away_keep_their_images(tmp_path):
    """Links to files were taken for images that are gone; links to folders were not."""
    folder = fill(tmp_path / "b", 2)
    (folder / "links").mkdir()
    for path in fill(tmp_path / "ext", 4, start=10).iterdir():
        (folder / "links" / path.name).symlink_to(path)
    index, _ = build([folder], tmp_path / "index")
    before = rows_of(index)
    (tmp_path / "ext").rename(tmp_path / "away")
    for _ in range(2):
        index, report = update([folder], tmp_path / "index")
        assert (report.added, report.removed, report.kept) == (0, 0, 4)
        assert set(report.skipped.values()) == {"broken link"}
        assert rows_of(index) == before
    (tmp_path / "away").rename(tmp_path / "ext")
    index, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed, report.kept, report.skipped) == (0, 0, 0, {})
    assert rows_of(index) == before


@pytest.mark.parametrize("code", UNREADABLE)
def test_a_changed_file_that_cannot_be_read_keeps_its_row(tmp_path, monkeypatch, code):
    folder = fill(tmp_path / "p", 5)
    index, _ = build([folder], tmp_path / "index")
    before = rows_of(index)
    for i in (1, 2):
        change(folder / f"00{i}.png", 60 + i)
    failing(monkeypatch, "open", "/001.png", code)
    for _ in range(2):
        index, report = update([folder], tmp_path / "index")
        assert report.kept == 1
        assert list(report.skipped) == [bytes(folder / "001.png")]
        rows = rows_of(index)
        assert [name for name in rows if rows[name] != before[name]] == ["002.png"]
    monkeypatch.undo()
    index, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed, report.kept, report.skipped) == (1, 1, 0, {})


def test_a_disk_that_fails_while_a_file_is_read(tmp_path, monkeypatch):
    """The file opens, and its later bytes cannot be read."""
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    change(folder / "001.png", 61)

    class Failing(io.FileIO):
        def readinto(self, buffer):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    opened = open

    def replacement(path, *rest, **options):
        if isinstance(path, bytes) and path.endswith(b"/001.png"):
            return io.BufferedReader(Failing(path, "rb"))
        return opened(path, *rest, **options)

    monkeypatch.setattr("builtins.open", replacement)
    index, report = update([folder], tmp_path / "index")
    assert (report.kept, len(index)) == (1, 3)
    assert report.skipped == {bytes(folder / "001.png"): "cannot be read (input/output error)"}


def test_a_file_that_is_no_image_any_more_loses_its_row(tmp_path):
    """It can be read, so its row would lead to what is not there."""
    folder = fill(tmp_path / "p", 4)
    build([folder], tmp_path / "index")
    (folder / "000.png").write_bytes(b"words")
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:40])
    (folder / "002.png").unlink()
    os.mkfifo(folder / "002.png")
    index, report = update([folder], tmp_path / "index")
    assert (report.removed, report.kept, len(index)) == (3, 0, 1)
    assert len(report.skipped) == 3


# Folders without images


def test_each_folder_that_lost_all_its_images_is_refused(tmp_path):
    """Two of three disks are mounted."""
    roots = [fill(tmp_path / name, 3, 10 * i) for i, name in enumerate("abc")]
    build(roots, tmp_path / "index")
    before = tree(tmp_path / "index")
    fill(tmp_path / "a", 1, start=50)
    (tmp_path / "b").rename(tmp_path / "away")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("words")
    with pytest.raises(DatasetError, match=r"/b has no image, and .* has 3 of its .*--allow-empty"):
        update(roots, tmp_path / "index")
    (tmp_path / "b/notes.txt").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(DatasetError, match=r"/b does not exist, and .* has 3 of its images"):
        update(roots, tmp_path / "index")
    assert tree(tmp_path / "index") == before
    # Without the folder, its images stay; what is new elsewhere is added.
    index, report = update([roots[0], roots[2]], tmp_path / "index")
    assert (report.added, report.removed, len(index)) == (1, 0, 10)
    # `add` removes nothing, but does not pass over a folder that is not there.
    with pytest.raises(DatasetError, match="b does not exist; give an existing folder"):
        update_index(roots, tmp_path / "index", remove_missing=False, backbone=Grid())
    index, report = update(roots, tmp_path / "index", allow_empty=True)
    assert (report.removed, len(index)) == (3, 7)
    # Now there is nothing to lose; a name that was never there is still refused.
    with pytest.raises(DatasetError, match="b does not exist; give an existing folder"):
        update(roots, tmp_path / "index")
    update(roots, tmp_path / "index", allow_empty=True)


def test_all_folders_may_be_empty_if_that_is_meant(tmp_path):
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    shutil.rmtree(folder)
    index, report = update([folder, folder / "000.png"], tmp_path / "index", allow_empty=True)
    assert (report.removed, len(index)) == (3, 0)
    fill(folder, 2)
    index, report = update([folder], tmp_path / "index")
    assert (report.added, len(index)) == (2, 2)


def test_an_empty_folder_without_images_in_the_index_is_no_error(tmp_path):
    folder = fill(tmp_path / "p", 3)
    (tmp_path / "new").mkdir()
    index, report = build([folder, tmp_path / "new"], tmp_path / "index")
    index, report = update([folder, tmp_path / "new"], tmp_path / "index")
    assert (report.removed, len(index)) == (0, 3)
    with pytest.raises(DatasetError, match=r"no image was found in .*/new; expected"):
        update([tmp_path / "new"], tmp_path / "index")


def test_a_single_image_that_is_gone(tmp_path):
    folder = fill(tmp_path / "p", 3)
    roots = [folder / "000.png", folder / "001.png"]
    build(roots, tmp_path / "index")
    roots[0].unlink()
    with pytest.raises(DatasetError, match=r"000\.png does not exist, and .* has 1 of its images"):
        update(roots, tmp_path / "index")
    index, _ = update(roots, tmp_path / "index", allow_empty=True)
    assert paths_of(index) == [str(roots[1])]


def test_a_folder_that_cannot_be_read_at_all_is_an_error(tmp_path, monkeypatch):
    folder, other = fill(tmp_path / "p", 3), fill(tmp_path / "q", 3, 10)
    build([folder, other], tmp_path / "index")
    before = tree(tmp_path / "index")
    failing(monkeypatch, "scandir", "/p", errno.EIO)
    for allow_empty in (False, True):
        with pytest.raises(DatasetError, match="p cannot be read"):
            update([folder, other], tmp_path / "index", allow_empty=allow_empty)
    assert tree(tmp_path / "index") == before


def test_a_new_build_may_miss_a_folder_if_that_is_meant(tmp_path):
    folder = fill(tmp_path / "p", 3)
    with pytest.raises(DatasetError, match="gone does not exist; give an existing folder"):
        build([folder, tmp_path / "gone"], tmp_path / "index")
    index, _ = build([folder, tmp_path / "gone"], tmp_path / "index", allow_empty=True)
    assert len(index) == 3
    with pytest.raises(DatasetError, match="no image was found"):
        build([tmp_path / "gone"], tmp_path / "other", allow_empty=True)


@pytest.mark.parametrize("roots", [[], "", b"", ["", "p"], [Path("p"), b""]])
def test_no_folder_is_one_sentence(tmp_path, roots):
    """An empty name would mean the current folder."""
    for act in (build, update_index):
        with pytest.raises(InvalidInputError, match=r"^roots has .*; expected at least one folder"):
            act(roots, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


# Comparisons


@given(st.lists(st.sampled_from([b"a", b"ab", b"b"]), min_size=1, max_size=5), st.data())
def test_unknown_paths_cover_what_is_below_them(parts, data):
    path = b"/" + b"/".join(parts)
    above = [b"/" + b"/".join(parts[:i]) for i in range(1, len(parts))]
    at = data.draw(st.sampled_from([path, *above]))
    assert is_unknown(path, {at})
    assert is_unknown(path, {b"/"})
    assert not is_unknown(path, {at + b"x", b"/x", path + b"/c", b"/" + parts[0] + b"z/"})
    assert not is_unknown(path, set())


def test_the_folders_above_a_path():
    assert [*ancestors(b"/a/b/c")] == [b"/a/b/c", b"/a/b", b"/a", b"/"]
    assert [*ancestors(b"/a")] == [b"/a", b"/"]
    assert [*ancestors(b"/")] == [b"/"]
    # An image without a file is in no folder of the system.
    assert [*ancestors(b"a/b")] == [b"a/b", b"a"]
    assert [*ancestors(b"a")] == [b"a"]


def test_roots_that_have_lost_their_images(tmp_path):
    """Roots in others and single images; an image without a file is in none of them."""
    p = os.fsencode(fill(tmp_path / "p", 1))
    gone, single = p + b"/gone", p + b"/000.png"
    known = [p + b"/000.png", gone + b"/1", gone + b"/2", b"named", p + b"/single"]
    recorded = tuple(Root(path, path) for path in (b"/", p, gone, single, p + b"/single"))
    found = find_lost_roots(known, {b"/": RootOptions(), p: RootOptions()}, Listing(), recorded)
    assert {root: lost.images for root, lost in found.items()} == {
        gone: [gone + b"/1", gone + b"/2"]
    }
    listed = {root.path: RootOptions() for root in recorded[2:]}
    found = find_lost_roots(known, listed, Listing(), recorded)
    assert {root: lost.images for root, lost in found.items()} == {
        gone: [gone + b"/1", gone + b"/2"],
        p + b"/single": [p + b"/single"],
    }
    assert all(lost.is_missing for lost in found.values())


def test_only_what_is_below_the_roots_is_missing():
    names = [b"/p/a", b"/p/b/c", b"/pq/a", b"/p", b"/q/a"]
    entries = [(name, (1, 2), i) for i, name in enumerate(names)]
    listed = {b"/q/a": ImageFile(b"/q/a", 1, 2)}
    changes = compare(entries, listed, [b"/p", b"/q"], {b"/p/b"})
    assert (changes.missing, changes.kept, changes.unchanged) == ([0, 3], {1}, {b"/q/a"})
    assert compare(entries, listed, [b"/"]).missing == [0, 1, 2, 3]
    assert compare(entries, listed, []).missing == []


# Times

EDGES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 1, 2**63, 2**70, -(2**70)]


@given(st.integers(-(2**75), 2**75) | st.sampled_from(EDGES), st.integers(-(2**41), 2**41))
def test_a_stored_time_is_a_time(mtime, step):
    stored = np.array([stored_time(mtime), stored_time(mtime + step)], np.int64).view(TIME)
    assert not np.isnat(stored).any()
    if -(2**63) < mtime < 2**63:
        assert stored_time(mtime) == mtime
    elif abs(step) < 2**41 and abs(mtime) > 2**64:
        # Two times that are moved into the range stay two.
        assert (stored[0] == stored[1]) == (step == 0)


@given(st.integers(9_223_372_037, 10**12), st.integers(1, 4_000_000_000), st.sampled_from([1, -1]))
def test_whole_seconds_beyond_the_range_differ(seconds, step, sign):
    first, second = sign * seconds * 10**9, sign * (seconds + step) * 10**9
    assert stored_time(first) != stored_time(second)
    year = int(np.array([stored_time(first)]).view(TIME).astype("M8[Y]")[0].astype(int)) + 1970
    assert year == (2262 if sign > 0 else 1677)


ABSURD = [
    *("2300-01-01", "2446-05-10", "1901-12-14", "1969-12-31 23:59:59", "1970-01-01", "2262-04-12"),
]


@pytest.mark.parametrize("when", ABSURD)
def test_an_absurd_time_is_indexed_and_its_change_is_seen(tmp_path, when):
    folder = fill(tmp_path / "p", 4)
    seconds = int(np.datetime64(when.replace(" ", "T"), "s").astype(np.int64))
    os.utime(folder / "001.png", ns=(seconds * 10**9, seconds * 10**9))
    if (folder / "001.png").stat().st_mtime_ns != seconds * 10**9:
        pytest.skip("the file system has no such time")
    index, report = build([folder], tmp_path / "index")
    assert (len(index), report.skipped) == (4, {})
    network = Grid()
    index, report = update([folder], tmp_path / "index", network)
    assert (network.seen, report.added, report.removed) == (0, 0, 0)
    os.utime(folder / "001.png", ns=((seconds + 1) * 10**9, (seconds + 1) * 10**9))
    index, report = update([folder], tmp_path / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (0, 0, 0, 1)
    assert len(index.query([folder / "001.png"], 4, where="mtime < '2262-04-12'")[0].results) == 4


def test_times_that_no_file_system_here_has(tmp_path, monkeypatch):
    """Of a listing, as from a disk whose clock ran away."""
    folder = fill(tmp_path / "p", 3)
    index, _ = build([folder], tmp_path / "index")
    absurd = {"000.png": 2**80, "001.png": -(2**80), "002.png": -(2**63)}
    files = [
        ImageFile(bytes(folder / name), (folder / name).stat().st_size, time)
        for name, time in absurd.items()
    ]
    report = Updater(index).update(files)
    assert (report.added, report.removed, report.moved) == (0, 0, 3)
    reopened = ImageIndex.open(tmp_path / "index", backbone=Grid())
    assert Updater(reopened).update(files).unchanged == 3


def test_a_year_zero_in_the_metadata_of_an_image(tmp_path):
    folder = fill(tmp_path / "p", 3)
    exif = image(0).getexif()
    exif[0x0132] = "0000:00:00 00:00:00"
    image(7).save(folder / "zero.jpg", exif=exif)
    index, report = build([folder], tmp_path / "index")
    assert (len(index), report.skipped) == (4, {})


# Changes while an update runs


def test_images_that_change_while_an_update_runs(tmp_path):
    """What is stored is the state from before an image was read, so the next update sees it."""
    folder = fill(tmp_path / "p", 3)
    build([folder], tmp_path / "index")
    fill(folder, 5, start=20)

    class Busy(Grid):
        """Changes, removes and adds files when the first images have been read."""

        def _features(self, pixels):
            if not self.seen:
                change(folder / "020.png", 80)
                (folder / "021.png").unlink()
                fill(folder, 1, start=40)
            return super()._features(pixels)

    index, report = update([folder], tmp_path / "index", Busy())
    assert (report.added, len(index)) == (5, 8)
    index, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed, len(index)) == (2, 2, 8)
    assert paths_of(index) == sorted(str(path) for path in folder.iterdir())
    network = Grid()
    update([folder], tmp_path / "index", network)
    assert network.seen == 0


def test_an_image_that_is_gone_before_it_is_read(tmp_path, monkeypatch):
    folder = fill(tmp_path / "p", 4)
    build([folder], tmp_path / "index")
    change(folder / "001.png", 60)
    fill(folder, 1, start=20)
    failing(monkeypatch, "open", "/001.png", errno.ENOENT)
    failing(monkeypatch, "open", "/020.png", errno.ENOENT)
    index, report = update([folder], tmp_path / "index")
    # Whether it is gone for good is found out by the listing of the next update.
    assert (report.added, report.removed, report.kept) == (0, 0, 1)
    assert set(report.skipped.values()) == {"no such file"}
    monkeypatch.undo()
    index, report = update([folder], tmp_path / "index")
    assert (report.added, report.removed, len(index)) == (2, 1, 5)


def test_a_disk_that_is_unmounted_while_an_update_reads(tmp_path, monkeypatch):
    """Changed images that were still to be read lost their rows."""
    monkeypatch.setattr(updater, "SEGMENT_SIZE", 2)
    folder = fill(tmp_path / "p", 12)
    build([folder], tmp_path / "index")
    for i, path in enumerate(sorted(folder.iterdir())):
        change(path, 70 + i)

    class Unmounting(Grid):
        """The folder is gone when the first images have been read."""

        def _features(self, pixels):
            if not self.seen:
                folder.rename(tmp_path / "elsewhere")
            return super()._features(pixels)

    index, report = update([folder], tmp_path / "index", Unmounting())
    # The first two have been read, and up to six more, which are decoded ahead of the network.
    assert 2 <= report.added <= 8
    assert (report.removed, report.kept, len(index)) == (report.added, 12 - report.added, 12)
    with pytest.raises(DatasetError, match="has 12 of its images, so nothing was changed"):
        update([folder], tmp_path / "index")
