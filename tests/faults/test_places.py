"""Indexes where a rename of their folder cannot work, and where nothing can be written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_tools import kill_before_call, new_index
from mount_tools import BIND, NOBODY, READ_ONLY, REMOUNT, as_nobody, mount, with_mounts
from store_tools import contents, make_rows, make_store

from hyperpq.errors import IndexNotFoundError, StoreError
from hyperpq.images.build import build_index
from hyperpq.io.train_vectors import train_vectors
from hyperpq.store import (
    IndexStore,
    find_place,
    recover_directory,
    replace_directory,
    verify_directory,
)
from hyperpq.store.lock import HOLDER_NAME, LOCK_NAME


def make_former(path: Path) -> IndexStore:
    store = make_store(path)
    store.write_report("skipped.csv", b"former")
    store.write_report("training.jsonl", b"{}")
    return store


def make_latter(path: Path) -> IndexStore:
    """Three shards, one of them with deleted rows; another codec under the same name."""
    store = IndexStore.create(
        path,
        settings={"score": "chord"},
        files={"codec.safetensors": b"d" * 70, "codec.json": b"{}"},
    )
    rows = [make_rows(3, first=100), make_rows(4, first=200), make_rows(2, first=300)]
    store.commit(append=rows, next_id=302)
    store.commit(delete={1: [0, 2]})
    store.write_report("skipped.csv", b"latter")
    return store


def what_is_there(path: Path) -> tuple | None:
    """Everything that a reader sees of an index; None if there is none."""
    try:
        store = IndexStore.open(path, verify=True)
    except IndexNotFoundError:
        return None
    files = {name: store.read_file(name) for name in store.file_names}
    return contents(store), store.settings, store.next_id, files, store.fingerprint()


def replace_and_kill(
    path: Path, latter: Path, restore: Callable[[], None], stride: int
) -> list[tuple | None]:
    """What is in ``path`` after a replacement that was killed before some of its system calls.

    ``restore`` brings the former state back. Each killed replacement is repeated.
    """
    want, found, number, status = what_is_there(latter), [], 0, signal.SIGKILL
    with pytest.MonkeyPatch.context() as patch:
        while status == signal.SIGKILL:
            restore()
            work = find_place(path).working_directory(".building")
            work.mkdir()
            shutil.copytree(latter, work / "index")
            status = kill_before_call(
                patch,
                number,
                lambda: replace_directory(work / "index", path),  # noqa: B023
            )
            found.append(what_is_there(path))
            if status == signal.SIGKILL and (work / "index").exists():
                # What was published already may be published again: a resumed build does so.
                replace_directory(work / "index", path)
            assert not (work / "index").exists()
            assert what_is_there(path) == want
            assert IndexStore.open(path).read_report("skipped.csv") == b"latter"
            assert IndexStore.open(path).read_report("training.jsonl") is None
            shutil.rmtree(work)
            assert verify_directory(path) == []
            # The next commits and publications have nothing to trip over.
            store = IndexStore.open(path)
            store.commit(append=[make_rows(5, first=400)], delete={0: [1]})
            store.compact()
            assert IndexStore.open(path, verify=True).ntotal == 3 - 1 + 2 + 2 + 5
            assert verify_directory(path) == []
            number += stride
    assert status == 0
    return found


def check_replacement(path: Path, tmp_path: Path, restore: Callable[[], None], stride: int) -> None:
    restore()
    old, latter = what_is_there(path), make_latter(tmp_path / "latter").path
    new = what_is_there(latter)
    found = replace_and_kill(path, latter, restore, stride)
    # There is one moment at which the new index is there.
    assert found == [old] * found.count(old) + [new] * found.count(new)
    assert found.count(old) >= 10 / stride
    assert found.count(new) >= 2
    restore()
    path_of_new = make_latter(find_place(path).working_directory(".saving-hyperpq") / "index").path
    if old is not None:
        with pytest.raises(StoreError, match="already an index; choose another place"):
            replace_directory(path_of_new, path, overwrite=False)
        assert what_is_there(path) == old


def clear(folder: Path) -> None:
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


STRIDES = pytest.mark.parametrize(
    "stride",
    [pytest.param(7, marks=pytest.mark.sample), pytest.param(1, marks=pytest.mark.slow)],
)
KINDS = ("file system of its own", "folder of the same file system", "link to it")


@STRIDES
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_index", [True, False])
def test_an_index_at_a_mount_point(tmp_path, kind, is_index, stride):
    """As the volume of a container: the rename failed with EBUSY after all the work."""
    path = place = tmp_path / "index with space"
    place.mkdir()
    (tmp_path / "volume").mkdir()
    if kind == "link to it":
        path = tmp_path / "elsewhere/index"
        path.parent.mkdir()
        path.symlink_to(place)

    def prepare():
        if kind == "folder of the same file system":
            mount(tmp_path / "volume", place, flags=BIND)
        else:
            mount("tmpfs", place, "tmpfs")

    def restore():
        clear(place)
        if is_index:
            make_former(place)
        else:
            (place / "lost+found").mkdir()

    def work():
        assert find_place(path).inside
        with pytest.raises(OSError, match="busy") as refused:
            os.rename(place, tmp_path / "aside")
        assert refused.value.errno == errno.EBUSY
        check_replacement(path, tmp_path, restore, stride)

    with_mounts(prepare, work)


@STRIDES
def test_an_index_behind_a_link_to_another_disk(tmp_path, stride):
    """The working directory lay beside the link: the rename failed with EXDEV."""
    disk, path = tmp_path / "disk", tmp_path / "index"
    disk.mkdir()
    path.symlink_to(disk / "photos/index")

    def restore():
        clear(disk)
        (disk / "photos").mkdir()
        make_former(disk / "photos/index")

    def work():
        (disk / "photos").mkdir()
        place = find_place(path)
        assert (place.path, place.inside) == (disk / "photos/index", False)
        assert place.working_directory(".building") == disk / "photos/index.building"
        restore()
        latter = make_latter(tmp_path / "latter").path
        want = what_is_there(latter)
        found = replace_and_kill(path, latter, restore, stride)
        assert found.count(want) >= 2
        assert os.path.islink(path)
        assert os.listdir(disk / "photos") == ["index"]

    with_mounts(lambda: mount("tmpfs", disk, "tmpfs"), work)


def test_an_index_in_a_layer_of_a_container(tmp_path):
    """A folder of a lower layer of overlayfs cannot be renamed; that shows when it is tried."""
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    make_former(tmp_path / "lower/index")
    latter = make_latter(tmp_path / "latter").path
    merged = tmp_path / "merged"

    def prepare():
        layers = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
        options = ",".join(f"{key}={tmp_path / name}" for key, name in layers.items())
        mount("overlay", merged, "overlay", options=options + ",redirect_dir=off")

    def work():
        place = find_place(merged / "index")
        assert not place.inside
        with pytest.raises(OSError, match="cross-device"):
            os.rename(place.path, merged / "aside")
        new = place.working_directory(".building") / "index"
        shutil.copytree(latter, new)
        replace_directory(new, place.path)
        assert what_is_there(place.path) == what_is_there(latter)
        assert verify_directory(place.path) == []

    with_mounts(prepare, work)


@STRIDES
def test_the_current_folder_stays_the_current_folder(tmp_path, monkeypatch, stride):
    """`--index .` put another folder in the place of the one that the shell was in."""
    path = tmp_path / "index"

    def restore():
        path.mkdir(exist_ok=True)
        clear(path)
        make_former(path)

    restore()
    monkeypatch.chdir(path)
    inode = os.stat(path).st_ino
    assert find_place(".").inside
    check_replacement(Path("."), tmp_path, restore, stride)
    assert os.stat(".").st_ino == inode == os.stat(path).st_ino
    monkeypatch.chdir("shards")
    assert find_place(path).inside
    monkeypatch.chdir(tmp_path)
    assert not find_place(path).inside


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch, code):
    path = make_former(tmp_path / "index").path
    monkeypatch.chdir(path)
    new = make_latter(path / ".building/index").path
    want = what_is_there(new)

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    shard = new / "shards/000001.h5"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + b"\1")
    with pytest.raises(StoreError, match="torn or altered"):
        replace_directory(new, path)
    assert IndexStore.open(path, verify=True).ntotal == 10
    shard.write_bytes(data)
    replace_directory(new, path)
    shutil.rmtree(path / ".building")
    assert what_is_there(path) == want
    assert verify_directory(path) == []


def test_a_folder_below_one_that_cannot_be_written(tmp_path):
    os.chmod(tmp_path, 0o755)
    above = tmp_path / "above"
    path = make_former(above / "index").path
    latter = make_latter(tmp_path / "latter").path
    want = what_is_there(latter)
    for folder, _, names in os.walk(tmp_path):
        for name in [".", *names]:
            os.chown(os.path.join(folder, name), NOBODY, NOBODY)

    def work():
        for sticky in (False, True):
            assert not find_place(path).inside
            # As /tmp: others may make folders there, and rename only their own.
            os.chmod(above, 0o1777 if sticky else 0o555)
            assert find_place(path).inside is not sticky
            new = find_place(path).working_directory(".building") / "index"
            shutil.copytree(latter, new)
            replace_directory(new, path)
            assert what_is_there(path) == want
            shutil.rmtree(new.parent)
            os.chmod(above, 0o755)
        os.chmod(above, 0o555)
        os.chmod(path, 0o555)
        with pytest.raises(StoreError, match="neither this folder nor the one above it"):
            find_place(path)
        os.chmod(path, 0o755)
        os.chmod(above, 0o755)

    as_nobody(work)
    assert verify_directory(path) == []


def test_another_users_folder_in_a_sticky_one(tmp_path):
    os.chmod(tmp_path, 0o1777)
    path = make_store(tmp_path / "index").path
    os.chmod(path, 0o777)
    as_nobody(lambda: _assert_inside(path))


def _assert_inside(path: Path) -> None:
    assert find_place(path).inside


def everything_below(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        yield str(path), status.st_ino, status.st_mtime_ns


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("how", ["read_only", "no right", "file system"])
def test_readers_write_nothing(tmp_path, how, interrupted):
    """Also where a replacement was interrupted: opening repaired it, and so needed to write."""
    os.chmod(tmp_path, 0o755)
    path = make_former(tmp_path / "place/index").path
    for name in (LOCK_NAME, HOLDER_NAME):
        (path / name).unlink(missing_ok=True)
    if interrupted:
        os.rename(path, path.with_name("index.old-hyperpq"))
    before = list(everything_below(tmp_path))

    def work():
        store = IndexStore.open(path, verify=True, read_only=how == "read_only")
        assert store.ntotal == len(contents(store)) == 10
        assert store.verify() == verify_directory(path) == []
        assert store.read_report("skipped.csv") == b"former"
        assert store.read_file("codec.safetensors") == b"c" * 99
        assert not store.refresh()
        reason = {
            "read_only": "was opened with read_only; open it without to change it",
            "no right": "Permission denied",
            "file system": "Read-only file system",
        }[how]
        for change in (
            lambda: store.commit(next_id=99),
            lambda: store.append(make_rows(2, first=50)),
            lambda: store.write_report("skipped.csv", b""),
            store.compact,
            store.remove_leftovers,
            lambda: store.hold_lock().__enter__(),
        ):
            with pytest.raises(StoreError, match=reason) as refused:
                change()
            code = errno.EACCES if how == "no right" else errno.EROFS
            assert refused.value.errno == code
        assert list(everything_below(tmp_path)) == before

    def read_only():
        mount(tmp_path, tmp_path, flags=BIND)
        mount(tmp_path, tmp_path, flags=BIND | READ_ONLY | REMOUNT)

    if how == "file system":
        with_mounts(read_only, work)
    elif how == "no right":
        as_nobody(work)
    else:
        work()


def test_a_link_to_a_folder_that_is_away_is_refused(tmp_path):
    """The folders that it leads to were made, on the disk that was not meant."""
    (tmp_path / "links").mkdir()
    for name, target in {
        "index": "../away/disk/index",
        "disk": "../away",
        "chain": "disk",
        "inner": "disk/index",
    }.items():
        (tmp_path / "links" / name).symlink_to(target)
    new = make_store(tmp_path / "new").path
    for name in ("index", "disk/index", "disk/a/b", "chain/index", "inner"):
        with pytest.raises(StoreError, match=r"the link leads to .*away.*, which does not exist"):
            find_place(tmp_path / "links" / name)
        with pytest.raises(StoreError, match="check that its disk is mounted"):
            replace_directory(new, tmp_path / "links" / name)
    assert sorted(os.listdir(tmp_path)) == ["links", "new"]
    # The index itself need not exist, nor folders that no link leads to.
    (tmp_path / "away/disk").mkdir(parents=True)
    for name in ("index", "disk/index", "disk/a/b", "chain/index", "inner", "c/d"):
        assert not find_place(tmp_path / "links" / name).path.exists()
    replace_directory(new, tmp_path / "links/index")
    assert sorted(os.listdir(tmp_path / "away/disk")) == ["index"]


def test_an_index_that_may_not_be_looked_into(tmp_path):
    """A `PermissionError` of the system was no `StoreError`."""
    os.chmod(tmp_path, 0o755)
    path = make_store(tmp_path / "place/index").path
    os.chmod(path.parent, 0)

    def work():
        for call in (
            lambda: IndexStore.open(path),
            lambda: IndexStore.open(path, verify=True),
            lambda: IndexStore.exists(path),
            lambda: verify_directory(path),
            lambda: find_place(path),
            lambda: replace_directory(path, path),
        ):
            with pytest.raises(StoreError, match="Permission denied") as refused:
                call()
            assert refused.value.errno == errno.EACCES

    as_nobody(work)


def test_folders_that_may_not_be_listed(tmp_path):
    """A folder without rights in the place itself, or above a place that does not exist yet."""
    os.chmod(tmp_path, 0o777)
    (tmp_path / "shut").mkdir(mode=0)
    index = make_store(tmp_path / "index").path
    index.chmod(0)
    # As an interrupted replacement leaves it, but that nobody may see whether it is empty.
    (tmp_path / "place").mkdir(mode=0)
    make_store(tmp_path / "place.old-hyperpq").path.chmod(0o777)
    learned = new_index()

    def work():
        new = make_store(tmp_path / "new")
        for call in (
            lambda: IndexStore.create(tmp_path / "shut/index", settings={}, files={}),
            lambda: learned.save(tmp_path / "shut/index", overwrite=True),
            lambda: replace_directory(new.path, index),
            lambda: IndexStore.exists(tmp_path / "place"),
            lambda: IndexStore.open(tmp_path / "place"),
            lambda: recover_directory(tmp_path / "place"),
        ):
            with pytest.raises(StoreError, match="Permission denied") as refused:
                call()
            assert refused.value.errno == errno.EACCES
        work = find_place(index).working_directory(".building")
        assert work == tmp_path / "index.building"

    as_nobody(work)


LEFT = {
    "nothing": ([], None),
    "a lock": ([".lock", ".lock-holder"], None),
    "a begun index": (
        [".lock", "codec.json", ".codec.json.ab.tmp", "shards/", "dead/"],
        "codec.json",
    ),
    "a volume": (["lost+found/"], None),
    "a working directory": ([".building/x"], None),
    "a begun publication": ([".unpublished-hyperpq", "codec.json", "shards/000000.h5"], None),
    "photos": (["holiday.jpg"], "holiday.jpg"),
    "photos beside a lock": ([".lock", "holiday.jpg"], "holiday.jpg"),
    "an index without a manifest": ([".lock", "shards/000000.h5"], "shards"),
    "a file of that name": ([".lock", "shards"], "shards"),
}


@pytest.mark.parametrize("left", LEFT)
def test_all_agree_on_what_is_free(tmp_path, left):
    """A save, a build, a training, a replacement and `IndexStore.create`."""
    names, in_the_way = LEFT[left]
    folder = tmp_path / "place"
    folder.mkdir()
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_text('["codec.json"]')
    place = find_place(folder)
    # Only `create` knows which files one that was interrupted has left.
    begun = {"codec.json": b""}
    is_free = in_the_way is None or in_the_way in begun
    assert place.is_free() == (in_the_way is None)
    if in_the_way is None:
        place.check_free()
    else:
        with pytest.raises(StoreError, match=rf"place: the folder is not empty \({in_the_way}\)"):
            place.check_free()
    new = make_store(tmp_path / "new").path
    if in_the_way is None:
        replace_directory(new, folder, overwrite=False)
        with pytest.raises(StoreError, match="place: the folder is already an index"):
            place.check_free()
        return
    for refused in (
        lambda: replace_directory(new, folder),
        lambda: replace_directory(new, folder, overwrite=False),
        lambda: train_vectors("none.npy", folder),
        lambda: build_index(["none"], folder, backbone="no-such-network"),
        *([] if is_free else [lambda: IndexStore.create(folder, settings={}, files=begun)]),
    ):
        with pytest.raises(StoreError, match=rf"place: the folder is not empty \({in_the_way}\)"):
            refused()
    if is_free:
        assert IndexStore.create(folder, settings={}, files=begun).ntotal == 0


def test_a_place_whose_index_stands_aside_is_not_free(tmp_path):
    """A training ran for hours first, and could not be saved."""
    os.rename(make_store(tmp_path / "index").path, tmp_path / "index.old-hyperpq")
    for refused in (
        lambda: find_place(tmp_path / "index").check_free(),
        lambda: train_vectors("none.npy", tmp_path / "index"),
    ):
        with pytest.raises(StoreError, match="index: the folder is already an index"):
            refused()
    assert os.listdir(tmp_path) == ["index.old-hyperpq"]
