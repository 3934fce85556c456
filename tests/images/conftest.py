"""Indexes whose images move, and a storage of objects in memory."""

from __future__ import annotations

import shutil

import pytest
from image_tools import build, fill
from moved_images import opened
from remote_tools import put

from hyperpq.images import updater
from hyperpq.images.roots import change_roots


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


@pytest.fixture
def memory():
    """A file system in memory, empty."""
    fsspec = pytest.importorskip("fsspec")
    storage = fsspec.filesystem("memory")
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]
    yield storage
    storage.store.clear()
    storage.pseudo_dirs[:] = [""]


@pytest.fixture
def stored(memory, tmp_path):
    """Twelve images in three folders, and what is no image."""
    for n in range(12):
        put(memory, f"/photos/set/{n % 3}/{n:03}.png", tmp_path, n)
    memory.pipe_file("/photos/set/0/notes.txt", b"text")
    memory.pipe_file("/photos/set/.hidden/a.png", b"hidden")
    memory.pipe_file("/photos/other/b.png", b"of another root")
    return memory
