"""Images and folders that move: nothing is encoded twice."""

from __future__ import annotations

import os
import random
import shutil

import pytest
from image_tools import Grid, build, fill, image, paths_of, tree, update
from moved_images import (
    check_rows,
    opened,
    rows_of,
    unchanged_rows,
)

from hyperpq import ImageIndex
from hyperpq.images import updater
from hyperpq.images.build import update_index
from hyperpq.images.build.update import update_images
from hyperpq.images.roots import recorded_roots
from hyperpq.images.skipped import from_csv

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
