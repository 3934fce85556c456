"""Images and folders that move, vanish and come back: nothing is encoded twice, or lost."""

from __future__ import annotations

import errno
import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from image_tools import Grid, build, fill, image, paths_of, tree, update

from hyperpq import ImageIndex
from hyperpq.errors import DatasetError, InvalidInputError
from hyperpq.images import forget, updater
from hyperpq.images.build import update_index
from hyperpq.images.build.update import update_images
from hyperpq.images.changes import is_gone
from hyperpq.images.roots import change_roots, recorded_roots
from hyperpq.images.skipped import from_csv
from hyperpq.index.path_map import parse_roots, with_roots


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A folder with two folders of images, ``a`` and ``b/c``, and their index; not to be used."""
    folder = tmp_path_factory.mktemp("built")
    fill(folder / "p/a", 6)
    fill(folder / "p/b/c", 4, start=10)
    build([folder / "p"], folder / "index")
    # What is copied from here is at the same place relative to the index, and nowhere else.
    return folder.rename(folder.with_name("moved"))


@pytest.fixture
def carried(built, tmp_path):
    """``p`` with 10 images, and ``index``, which has been moved here with them."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def place(carried):
    """The same, and the index records the place of ``p``."""
    change_roots(opened(carried).index, lambda roots: roots)
    return carried


@pytest.fixture
def without_hashes(monkeypatch):
    """An index that an earlier version made."""
    monkeypatch.setattr(updater, "has_hashes", lambda images: False)


def rows_of(index):
    """Id by path of each image."""
    view = index.index.collection.view()
    return dict(zip(map(os.fsdecode, view.paths_of(view.ids)), view.ids.tolist(), strict=True))


def unchanged_rows(index, before):
    """Whether an index has the codes and features of another for the same ids."""
    ids = index.index.ids
    same = (index.index.codes_of(ids) == before.index.codes_of(ids)).all()
    return same and (index.index.features_of(ids) == before.index.features_of(ids)).all()


def check_rows(index):
    """Each row has the features of the image that is at its path."""
    paths = paths_of(index)
    rows = rows_of(index)
    encoded = index.encode(paths)
    kept = index.index.features_of([rows[path] for path in paths])
    want = [Grid()(pixels_of(path)[None])[0] for path in paths]
    scale = np.abs(want).max(axis=1, keepdims=True) / 127
    assert (np.abs(kept - want) <= 0.51 * scale).all()
    assert encoded.skipped == {}


def pixels_of(path):
    from hyperpq.datasets.decode import open_image
    from hyperpq.datasets.preprocessing import to_pixels

    prep = Grid().preprocessing
    return to_pixels(open_image(os.fsencode(path), shrink_to=prep.decode_side), prep)


def opened(place):
    return ImageIndex.open(place / "index", device="cpu", backbone=Grid())


# The index moves together with its images


def test_an_index_that_moved_with_its_images_needs_nothing(carried):
    place = carried
    index = opened(place)
    files = sorted(str(path) for path in (place / "p").rglob("*.png"))
    assert paths_of(index) == files
    before = tree(place / "index")
    (answer,) = index.query(files[3], 1)
    assert answer.results[0].path == files[3]
    where = f"startswith(path, '{place}/p/a/')"
    assert len(index.query(files[0], 10, where=where)[0].results) == 6
    assert tree(place / "index") == before
    network = Grid()
    index, report = update([place / "p"], place / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (0, 0, 0, 0)
    # Its place is recorded now: it counts where both are there.
    (root,) = recorded_roots(index.index)
    assert root.path == os.fsencode(place / "p")
    (place / "index").rename(place / "deep")
    assert paths_of(ImageIndex.open(place / "deep", backbone=Grid())) == files


# A folder moves


def test_a_folder_that_moved_is_not_encoded_again(place):
    """All was encoded again, and the rows of the former folder could not be removed."""
    before = opened(place)
    rows = rows_of(before)
    (place / "p").rename(place / "q")
    network, snapshot = Grid(), before.index.collection.snapshot
    index, report = update([place / "q"], place / "index", network)
    assert (network.seen, report.added, report.removed, len(index)) == (0, 0, 0, 10)
    assert report.places == {os.fsencode(place / "p"): os.fsencode(place / "q")}
    assert rows_of(index) == {path.replace("/p/", "/q/"): id for path, id in rows.items()}
    assert unchanged_rows(index, before)
    # Nothing but the metadata was written, once.
    assert index.index.collection.snapshot == snapshot + 1
    _, report = update([place / "q"], place / "index", network)
    assert (network.seen, report.places, index.index.collection.snapshot) == (0, {}, snapshot + 1)


def test_what_is_gone_and_new_in_a_folder_that_moved(place):
    (place / "p/a/000.png").unlink()
    (place / "p/a/001.png").rename(place / "p/b/renamed.png")
    (place / "p").rename(place / "q")
    image(77).save(place / "q/new.png")
    (place / "q/bad.png").write_bytes(b"")
    network = Grid()
    index, report = update([place / "q"], place / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (1, 1, 1, 1)
    assert paths_of(index) == sorted(
        str(path) for path in (place / "q").rglob("*.png") if path.name != "bad.png"
    )
    check_rows(index)
    # It moves again, and another folder takes its first place.
    (place / "q").rename(place / "r")
    fill(place / "p/a", 3, start=50)
    network = Grid()
    index, report = update([place / "r", place / "p"], place / "index", network)
    assert (network.seen, report.added, report.removed) == (3, 3, 0)
    files = {str(p) for root in "rp" for p in (place / root).rglob("*.png")}
    assert set(paths_of(index)) == files - {str(place / "r/bad.png")}
    check_rows(index)
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.added, report.removed, report.moved, report.places) == (0, 0, 0, {})
    skipped = from_csv((place / "index/skipped.csv").read_bytes())
    assert list(skipped) == [os.fsencode(place / "r/bad.png")]


def test_a_folder_that_moved_into_another_one(place):
    fill(place / "all", 2, start=60)
    (place / "p").rename(place / "all/photos")
    network = Grid()
    index, report = update([place / "all"], place / "index", network)
    assert (network.seen, report.added, report.removed, len(index)) == (2, 2, 0, 12)
    assert report.places == {os.fsencode(place / "p"): os.fsencode(place / "all/photos")}
    assert paths_of(index) == sorted(str(path) for path in (place / "all").rglob("*.png"))
    check_rows(index)


def test_a_folder_that_moved_is_found_by_add_and_with_its_former_name(place):
    (place / "p").rename(place / "q")
    index, report = update([place / "p", place / "q"], place / "index")
    assert (report.added, report.removed, len(report.places)) == (0, 0, 1)
    (place / "q").rename(place / "r")
    index, report = update_index(
        [place / "r"], place / "index", remove_missing=False, backbone=Grid()
    )
    assert (report.added, report.removed, len(report.places)) == (0, 0, 1)
    assert paths_of(index) == sorted(str(path) for path in (place / "r").rglob("*.png"))


def test_a_folder_that_moved_is_listed_as_before(place):
    """With the patterns that it was given with, and not those of the first build."""
    fill(place / "q", 4, start=40)
    fill(place / "q/raw", 2, start=50)
    update([place / "q"], place / "index", exclude=["raw"])
    (place / "q").rename(place / "r")
    index, report = update([place / "r"], place / "index")
    assert (report.added, report.removed, len(report.places), len(index)) == (0, 0, 1, 14)
    (place / "r").rename(place / "s")
    index, report = update([place / "s"], place / "index", exclude=[])
    assert (report.added, len(report.places), len(index)) == (2, 1, 16)
    assert recorded_roots(index.index)[-1].exclude == ()


def test_an_index_that_is_reached_by_a_link(place):
    (place / "deep/er").mkdir(parents=True)
    (place / "deep/er/link").symlink_to(place / "index")
    before = tree(place / "index")
    index, report = update([place / "p"], place / "deep/er/link")
    assert (report.added, tree(place / "index")) == (0, before)
    assert update_images(index).added == 0
    assert tree(place / "index") == before


def test_another_folder_is_no_folder_that_moved(place):
    """Fewer than half of the images of the one that is gone."""
    before = opened(place)
    (place / "p").rename(place / "away")
    (place / "q/a").mkdir(parents=True)
    for i in range(4):
        shutil.copy2(place / f"away/a/00{i}.png", place / f"q/a/00{i}.png")
    shutil.move(place / "away", place.parent / f"{place.name}-away")
    index, report = update([place / "q"], place / "index")
    # But its images are those of the index, as their files are gone.
    assert (report.added, report.moved, report.places, len(index)) == (0, 4, {}, 10)
    assert unchanged_rows(index, before)


def test_a_copy_of_a_folder_is_new(place):
    shutil.copytree(place / "p", place / "q")
    network = Grid()
    index, report = update([place / "q"], place / "index", network)
    assert (network.seen, report.added, report.moved, report.places) == (10, 10, 0, {})
    assert len(index) == 20


# Single images move


def test_images_that_were_moved_renamed_or_touched(place):
    before = opened(place)
    rows, folder = rows_of(before), place / "p"
    moves = {
        "a/000.png": "a/first.png",
        "a/001.png": "b/001.png",
        "b/c/010.png": "010.png",
        "a/002.png": "b/c/renamed.jpg",
    }
    for old, new in moves.items():
        (folder / old).rename(folder / new)
    os.utime(folder / "a/003.png", (10**9, 10**9))
    # By another path and with another time: its content is the same.
    (folder / "a/004.png").rename(folder / "b/004.png")
    os.utime(folder / "b/004.png", (10**9, 10**9))
    shutil.copy2(folder / "a/005.png", folder / "copy.png")
    network, snapshot = Grid(), before.index.collection.snapshot
    index, report = update([folder], place / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (1, 1, 0, 6)
    now = rows_of(index)
    for old, new in {**moves, "a/003.png": "a/003.png", "a/004.png": "b/004.png"}.items():
        assert now[str(folder / new)] == rows[str(folder / old)]
    assert now[str(folder / "a/005.png")] == rows[str(folder / "a/005.png")]
    assert sorted(now) == sorted(str(p) for p in folder.rglob("*") if p.is_file())
    check_rows(index)
    # All moves are one commit, and the copy is another.
    assert index.index.collection.snapshot <= snapshot + 3
    attributes = index.index.attributes_of([now[str(folder / "b/001.png")]])
    assert attributes["folder"].tolist() == ["b"]
    files_before, network = tree(place / "index"), Grid()
    _, report = update([folder], place / "index", network)
    assert (network.seen, report.moved, tree(place / "index")) == (0, 0, files_before)


def test_a_file_of_the_same_size_and_time_is_another_image(place):
    """Only its content says so."""
    path = place / "p/a/000.png"
    status = path.stat()
    path.unlink()
    other = place / "p/a/other.png"
    image(70).save(other)
    other.write_bytes(other.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])
    image(71, (8, 8)).save(other, "BMP")
    other.write_bytes(other.read_bytes().ljust(status.st_size, b"\0"))
    assert other.stat().st_size == status.st_size
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    index, report = update([place / "p"], place / "index")
    assert (report.added, report.removed, report.moved) == (1, 1, 0)
    check_rows(index)


def test_copies_that_move_are_told_apart_by_their_names(place):
    folder = place / "p"
    for name in ("x", "y", "z"):
        shutil.copy2(folder / "a/000.png", folder / f"a/{name}.png")
    rows = rows_of(update([folder], place / "index")[0])
    (folder / "n").mkdir()
    for name in ("x", "z"):
        (folder / f"a/{name}.png").rename(folder / f"n/{name}.png")
    (folder / "a/y.png").rename(folder / "n/other.png")
    network = Grid()
    index, report = update([folder], place / "index", network)
    assert (network.seen, report.moved, report.removed) == (0, 3, 0)
    now = rows_of(index)
    for old, new in {"x": "x", "y": "other", "z": "z"}.items():
        assert now[str(folder / f"n/{new}.png")] == rows[str(folder / f"a/{old}.png")]


def test_an_image_that_moved_from_a_folder_that_is_not_listed(place):
    fill(place / "q", 1, start=60)
    update([place / "q"], place / "index")
    (place / "p/a/000.png").rename(place / "q/000.png")
    index, report = update([place / "q"], place / "index")
    assert (report.added, report.removed, report.moved, len(index)) == (0, 0, 1, 11)


def test_an_image_of_a_disk_that_is_away_has_not_moved(place):
    """A copy of it is a new image: the folder that the disk is mounted at is empty."""
    shutil.copytree(place / "p", place / "copies")
    shutil.rmtree(place / "p")
    (place / "p").mkdir()
    index, report = update([place / "copies"], place / "index")
    assert (report.added, report.moved, report.places, len(index)) == (10, 0, {}, 20)


def test_moves_in_an_index_of_an_earlier_version(tmp_path, without_hashes):
    """Without hashes of the content, size and time tell."""
    folder = fill(tmp_path / "p", 6)
    build([folder], tmp_path / "index")
    for i, name in enumerate(("000.png", "001.png")):
        os.utime(folder / name, ns=(10**18, 10**18 + i))
    update([folder], tmp_path / "index")
    (folder / "000.png").rename(folder / "whole-second.png")
    (folder / "001.png").rename(folder / "renamed.png")
    (folder / "n").mkdir()
    (folder / "002.png").rename(folder / "n/002.png")
    os.utime(folder / "003.png", (10**9, 10**9))
    network = Grid()
    index, report = update([folder], tmp_path / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (2, 2, 2, 2)
    assert paths_of(index) == sorted(str(path) for path in folder.rglob("*.png"))
    (folder).rename(tmp_path / "q")
    network = Grid()
    index, report = update([tmp_path / "q"], tmp_path / "index", network)
    assert (network.seen, len(report.places), len(index)) == (0, 1, 6)
    assert "content_hash" not in index.index.attribute_names


def test_another_process_removes_what_has_moved(place, monkeypatch):
    """Between the comparison and the commit."""
    (place / "p/a/000.png").rename(place / "p/renamed.png")
    real = updater.find_moves

    def find_moves(*arguments):
        found = real(*arguments)
        opened(place).index.remove_ids([*found.values()])
        return found

    monkeypatch.setattr(updater, "find_moves", find_moves)
    index, report = update([place / "p"], place / "index")
    assert (report.moved, report.added, len(index)) == (0, 1, 10)
    check_rows(index)


def test_images_that_exchanged_their_paths(place, monkeypatch):
    """As after a renumbering; a kill between two commits leaves two rows with one path."""
    monkeypatch.setattr(updater, "SEGMENT_SIZE", 2)
    rows, folder = rows_of(opened(place)), place / "p/a"
    names = [f"00{i}.png" for i in range(6)]
    for name in names:
        (folder / name).rename(folder / f"old-{name}")
    for name, new in zip(names, names[1:] + names[:1], strict=True):
        (folder / f"old-{name}").rename(folder / new)
    real, calls = updater.Changes.move, []

    def move(changes, moved):
        calls.append(moved)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(changes, moved)

    monkeypatch.setattr(updater.Changes, "move", move)
    with pytest.raises(KeyboardInterrupt):
        update([place / "p"], place / "index")
    monkeypatch.undo()
    network = Grid()
    index, report = update([place / "p"], place / "index", network)
    assert (network.seen, report.added, report.removed, report.moved) == (0, 0, 0, 2)
    now = rows_of(index)
    for name, new in zip(names, names[1:] + names[:1], strict=True):
        assert now[str(folder / new)] == rows[str(folder / name)]
    check_rows(index)


def test_any_changes_of_two_folders(place):
    """After each update every row is that of the file at its path, and no image is read twice."""
    choice, number = random.Random(7), 100
    roots = [place / "p", fill(place / "q", 4, start=30)]
    update(roots, place / "index")
    for _ in range(8):
        files = [path for root in roots for path in root.rglob("*.png")]
        written = 0
        for path in choice.sample(files, 4):
            number += 1
            target = choice.choice(roots) / f"{number}.png"
            action = choice.choice(["move", "touch", "copy", "rewrite", "remove", "swap"])
            if action == "move":
                path.rename(target)
            elif action == "touch":
                os.utime(path, (number, number))
            elif action == "copy":
                shutil.copy2(path, target)
                written += 1
            elif action == "rewrite":
                image(number).save(path)
                os.utime(path, (number, number))
                written += 1
            elif action == "remove":
                path.unlink()
            else:
                other = choice.choice(files)
                if other.exists() and other != path:
                    path.rename(target)
                    other.rename(path)
                    target.rename(other)
        at = choice.randrange(2)
        if choice.random() < 0.5:
            roots[at] = roots[at].rename(place / f"root-{number}")
        network = Grid()
        index, report = update(roots, place / "index", network)
        assert paths_of(index) == sorted(str(p) for root in roots for p in root.rglob("*.png"))
        assert network.seen == report.added == written
        check_rows(index)
    index, report = update_index(None, place / "index", backbone=Grid())
    assert (report.added, report.removed, report.moved, report.skipped) == (0, 0, 0, {})


# Files that are gone


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


# All recorded folders


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


def single_images(place, *names):
    """Copies of images of another folder, which the index records one by one."""
    fill(place / "one", len(names), start=80)
    (place / "one/note.txt").write_text("a folder without a file may be a mount point")
    for number, name in enumerate(names, 80):
        (place / f"one/{number:03}.png").rename(place / "one" / name)
    roots = [place / "one" / name for name in names]
    update(roots, place / "index")
    return roots


def roots_of(place):
    return {os.fsdecode(root.path) for root in recorded_roots(opened(place).index)}


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
