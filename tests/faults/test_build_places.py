"""Builds where an index cannot be renamed into its place, undisturbed, killed and resumed."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from build_jobs import files_of, job_server
from mount_tools import BIND, as_nobody, mount, with_mounts
from store_tools import make_store

from hyperpq.errors import StoreError
from hyperpq.images.build import build_index
from hyperpq.store import verify_directory

OPTIONS = {"seed": 3, "bits": 32, "epochs": 1, "recipe": "paper"}
# Early and late in a build, and all of the publication.
KILLS = [0, 20, 40, 60, *range(73, 132, 3)]


@pytest.fixture(scope="module")
def jobs():
    with job_server() as run:
        yield run


@pytest.fixture(scope="module")
def images(drawn, tmp_path_factory):
    """Twelve images, which are two segments."""
    folder = tmp_path_factory.mktemp("images")
    good = [path for path in sorted(drawn.rglob("*")) if path.suffix in (".png", ".jpg")]
    for i, path in enumerate(good[::6]):
        shutil.copyfile(path, folder / f"{i:02}{path.suffix}")
    return folder


@pytest.fixture(scope="module")
def whole(jobs, images, tmp_path_factory):
    """The bytes of an undisturbed build in an ordinary place."""
    root = tmp_path_factory.mktemp("whole")
    assert jobs(root, images, **OPTIONS)["error"] is None
    return files_of(root / "index")


@pytest.fixture(scope="module")
def old(jobs, images, tmp_path_factory):
    """An index of other images, which the new one replaces."""
    root = tmp_path_factory.mktemp("old")
    few = root / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[:2]:
        shutil.copyfile(path, few / path.name)
    assert jobs(root, few, seed=1, bits=16)["error"] is None
    return root / "index"


def check_whole(folder, whole):
    """Check that a folder holds the index, byte for byte, and nothing else.

    The names of files that were published beside those of a former index are other ones.
    """
    found = files_of(folder)
    assert sorted(contents(found)) == sorted(contents(whole))
    assert found["skipped.csv"] == whole["skipped.csv"]
    assert not [entry.name for entry in folder.iterdir() if entry.name.startswith(".building")]
    assert [problem for problem in verify_directory(folder) if problem.kind == "damage"] == []


def contents(files):
    return [data for name, data in files.items() if name != "manifest.json"]


def test_an_index_in_the_current_directory(jobs, images, whole, tmp_path):
    """`--index .` must not put another folder in the place of the shell's."""
    place = tmp_path / "index"
    place.mkdir()
    inode = place.stat().st_ino
    for options in ({}, {"overwrite": True}, {}):
        assert jobs(tmp_path, images, inside=True, **OPTIONS, **options)["error"] is None
        check_whole(place, whole)
        assert place.stat().st_ino == inode
        assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


def test_a_build_in_the_current_directory_killed_and_resumed(jobs, images, whole, old, tmp_path):
    """At every step the place has the old index, or the new one, and answers."""
    query = [str(next(images.iterdir()))]
    again = {**OPTIONS, "overwrite": True, "inside": True}
    before, answers, killed = files_of(old), set(), 0
    for number in KILLS:
        root = tmp_path / str(number)
        shutil.copytree(old, root / "index")
        first = jobs(root, images, kill=number, **again)
        killed += first["status"] == -signal.SIGKILL
        answer = jobs(root, images, answer=query)
        assert answer["error"] is None, number
        answers.add(len(answer["steps"][0]))
        # Without a word of what to do, an interrupted build is not touched; one that only had to
        # remove its own files is done.
        work = root / "index/.building"
        if (work / "settings.json").exists() and (work / "index").exists():
            refused = jobs(root, images, inside=True, **OPTIONS)["error"]
            assert f"{work} is an interrupted build; continue it with --resume" in refused
        assert jobs(root, images, resume=True, **again)["error"] is None, number
        check_whole(root / "index", whole)
        assert [entry.name for entry in root.iterdir()] == ["index"]
        shutil.rmtree(root)
    assert before == files_of(old)
    assert answers == {2, 3}
    assert killed > 20


def test_a_build_killed_inside_is_resumed_from_elsewhere(jobs, images, whole, tmp_path):
    """The working directory is found where it was begun."""
    (tmp_path / "index").mkdir()
    killed = jobs(tmp_path, images, kill=40, inside=True, **OPTIONS)
    assert killed["status"] == -signal.SIGKILL
    assert (tmp_path / "index/.building/settings.json").exists()
    assert jobs(tmp_path, images, resume=True, **OPTIONS)["error"] is None
    check_whole(tmp_path / "index", whole)


def test_a_build_killed_beside_is_resumed_inside(jobs, images, whole, old, tmp_path):
    shutil.copytree(old, tmp_path / "index")
    again = {**OPTIONS, "overwrite": True}
    assert jobs(tmp_path, images, kill=40, **again)["status"] == -signal.SIGKILL
    assert (tmp_path / "index.building/settings.json").exists()
    assert jobs(tmp_path, images, resume=True, inside=True, **again)["error"] is None
    check_whole(tmp_path / "index", whole)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index"]


def killed_and_resumed(root, place, images, whole, **options):
    """Build, update and build anew at a place, killed at some steps and resumed."""
    with job_server() as run:
        for kill in (5, 45):
            status = run(root, images, kill=kill, resume=True, **OPTIONS, **options)["status"]
            assert status == -signal.SIGKILL
        assert run(root, images, resume=True, **OPTIONS, **options)["error"] is None
        check_whole(place, whole)
        assert run(root, images, **OPTIONS, **options)["error"] is None
        check_whole(place, whole)
        for kill in (60, 80, 89, 94, 112):
            run(root, images, kill=kill, overwrite=True, **OPTIONS, **options)
            answer = run(root, images, answer=[str(next(images.iterdir()))])
            assert answer["error"] is None, kill
            assert len(answer["steps"][0]) == 3
            done = run(root, images, resume=True, overwrite=True, **OPTIONS, **options)
            assert done["error"] is None, kill
            check_whole(place, whole)


@pytest.mark.parametrize("kind", ["tmpfs", "bind", "lost+found"])
def test_an_index_on_a_mount_point(images, whole, tmp_path, kind):
    """The volume of a container: a rename of it ends in EBUSY, after the whole build."""
    place, source = tmp_path / "index", tmp_path / "source"
    place.mkdir()
    source.mkdir()

    def prepare():
        if kind == "bind":
            mount(source, place, flags=BIND)
        else:
            mount("none", place, "tmpfs")
        if kind == "lost+found":
            (place / "lost+found").mkdir()

    with_mounts(prepare, lambda: killed_and_resumed(tmp_path, place, images, whole))


@pytest.mark.parametrize("exists", [True, False])
def test_an_index_behind_a_link_to_another_disk(images, whole, tmp_path, exists):
    """A working directory beside the link is on another file system: EXDEV."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "index").symlink_to(disk / "index")

    def prepare():
        mount("none", disk, "tmpfs")
        if exists:
            (disk / "index").mkdir()

    def work():
        killed_and_resumed(tmp_path, disk / "index", images, whole)
        assert (tmp_path / "index").is_symlink()
        assert sorted(entry.name for entry in disk.iterdir()) == ["index"]
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk", "index"]

    with_mounts(prepare, work)


def test_a_place_that_cannot_be_written_is_refused_before_any_work(images, tmp_path):
    """Neither the listing nor the network is begun, which the missing folder would show."""
    (tmp_path / "index").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    before = sorted(os.listdir(tmp_path))

    def work():
        with pytest.raises(StoreError, match="neither this folder nor the one above it"):
            build_index(["/nowhere"], tmp_path / "index", backbone="no-such-network")

    as_nobody(work)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_link_to_a_disk_that_is_away_is_refused_before_any_work(tmp_path):
    (tmp_path / "index").symlink_to(tmp_path / "away/index")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(StoreError, match=r"the link leads to .*, which does not exist"):
            build_index(["/nowhere"], tmp_path / "index", backbone="no-such-network", **options)
    assert os.listdir(tmp_path) == ["index"]


def test_a_place_in_use_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("words")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("words")
    for name, what in {"file": "this is a file", "folder": "the folder is not empty"}.items():
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(StoreError, match=rf"{name}: {what}.*; choose another place"):
                build_index(["/nowhere"], tmp_path / name, backbone="no-such-network", **options)
    assert sorted(map(str, Path(tmp_path).iterdir())) == [
        str(tmp_path / "file"),
        str(tmp_path / "folder"),
    ]


@pytest.mark.parametrize("option", ["overwrite", "resume"])
def test_files_that_would_be_lost_are_named_before_any_work(option, tmp_path):
    """The whole build ran first."""
    index = make_store(tmp_path / "index").path
    (index / "notes").write_text("words")
    if option == "resume":
        (tmp_path / "index.building").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match="'notes', which is no part of the index"):
        build_index(["/nowhere"], index, backbone="no-such-network", **{option: True})
    assert sorted(tmp_path.rglob("*")) == before
