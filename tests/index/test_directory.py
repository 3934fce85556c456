"""Saving and loading: what is written where, what is replaced, and damaged directories."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from index_tools import (
    D_IN,
    QUERIES,
    Unchanged,
    X,
    assert_same,
    brute_force,
)

from hyperpq import HiHPQIndex, write_index
from hyperpq.codec.serialization import to_files
from hyperpq.errors import (
    CorruptIndexError,
    IndexNotFoundError,
    StoreError,
)
from hyperpq.store import IndexStore, Rows
from hyperpq.utils.files import checksum


def test_add_after_load_is_durable_and_rewrites_nothing(make, tmp_path):
    make(X[:200]).save(tmp_path / "i")
    first = (tmp_path / "i/shards/000000.h5").read_bytes()
    index = HiHPQIndex.load(tmp_path / "i", device="cpu")
    index.add(X[200:260])
    index.add(X[260:], np.arange(1000, 1040))
    again = HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True)
    ids = [*range(260), *range(1000, 1040)]
    want = brute_force(index, QUERIES, X, ids, 300)
    assert_same(again.search(QUERIES, 300), want)
    assert_same(index.search(QUERIES, 300), want)
    assert again.next_id == 1040
    # A large shard stays, small ones behind it are joined.
    assert (tmp_path / "i/shards/000000.h5").read_bytes() == first
    assert [s.codes.n for s in again.collection.view().code_segments()] == [200, 60, 40]


def test_add_is_stored_when_the_process_is_killed(make, tmp_path):
    make(X[:10]).save(tmp_path / "i")
    script = (
        "import os, sys, numpy as np\n"
        "from hyperpq import HiHPQIndex\n"
        "index = HiHPQIndex.load(sys.argv[1], device='cpu')\n"
        "index.add(np.ones((5, 12)))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "i")], check=False)
    assert done.returncode == -9
    assert HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True).ntotal == 15


def test_saving_where_it_lies_writes_nothing(make, tmp_path):
    index = make(X)
    index.save(tmp_path / "i")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")}
    index.save(tmp_path / "i")
    index.save(str(tmp_path / "j/../i"), overwrite=True)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")} == before


def test_saving_elsewhere_leaves_the_first_place(make, tmp_path):
    index = make(X[:100])
    index.save(tmp_path / "a")
    index.save(tmp_path / "b")
    index.add(X[100:])
    # The index stays where it was: the second save wrote a copy.
    assert index.path == tmp_path / "a"
    assert HiHPQIndex.load(tmp_path / "a", device="cpu").ntotal == 300
    assert HiHPQIndex.load(tmp_path / "b", device="cpu").ntotal == 100


def test_overwrite_replaces_an_index_and_nothing_else(make, tmp_path):
    make(X[:50]).save(tmp_path / "i")
    index = make(X)
    with Unchanged(index, StoreError, "already an index"):
        index.save(tmp_path / "i")
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 50
    index.save(tmp_path / "i", overwrite=True)
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 300
    assert os.listdir(tmp_path) == ["i"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_foreign_folder_or_file_stays(make, tmp_path, overwrite):
    folder, file = tmp_path / "photos", tmp_path / "file"
    folder.mkdir()
    (folder / "cat.jpg").write_text("a cat")
    file.write_text("a file")
    for place in (folder, file):
        index = make(X)
        with Unchanged(index, StoreError, place.name):
            index.save(place, overwrite=overwrite)
        assert index.path is None
    assert (folder / "cat.jpg").read_text() == "a cat"
    assert file.read_text() == "a file"
    assert sorted(os.listdir(tmp_path)) == ["file", "photos"]


def test_overwrite_keeps_an_index_with_a_foreign_file_in_it(make, tmp_path, monkeypatch):
    make(X[:50]).save(tmp_path / "i")
    (tmp_path / "i/cat.jpg").write_text("a cat")
    index = make(X)
    # It is noticed before anything is written.
    monkeypatch.delattr(IndexStore, "create")
    with Unchanged(index, StoreError, "cat.jpg"):
        index.save(tmp_path / "i", overwrite=True)
    assert index.path is None
    assert os.listdir(tmp_path) == ["i"]
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 50


@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_are_free(make, tmp_path, monkeypatch, overwrite):
    (tmp_path / "empty").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in (tmp_path / "empty", tmp_path / "a/b/c", ".", "relative"):
        make(X).save(place, overwrite=overwrite)
        assert HiHPQIndex.load(place, device="cpu").ntotal == 300
        if place == ".":
            for name in ("manifest.json", "codec.json", "codec.safetensors"):
                assert (tmp_path / "here" / name).is_file()
            monkeypatch.chdir(tmp_path)


def test_overwrite_through_a_link(make, tmp_path):
    (tmp_path / "far").mkdir()
    make(X[:9]).save(tmp_path / "far/i")
    (tmp_path / "link").symlink_to(tmp_path / "far/i")
    make(X).save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert HiHPQIndex.load(tmp_path / "far/i", device="cpu").ntotal == 300
    assert os.listdir(tmp_path / "far") == ["i"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_to_a_disk_that_is_away_is_refused(make, tmp_path, overwrite):
    (tmp_path / "link").symlink_to(tmp_path / "away/i")
    with pytest.raises(StoreError, match=r"the link leads to .*, which does not exist"):
        make(X).save(tmp_path / "link", overwrite=overwrite)
    with pytest.raises(StoreError, match=r"the link leads to .*, which does not exist"):
        write_index(make(X), tmp_path / "link")
    assert os.listdir(tmp_path) == ["link"]


def test_a_full_disk_leaves_the_index_and_the_place(make, tmp_path, monkeypatch):
    index = make(X)

    def full(*args, **options):
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(IndexStore, "commit", full)
        with Unchanged(index, StoreError, "no space"):
            index.save(tmp_path / "i")
        assert index.path is None
        # What has no rows must not look like an index.
        assert not (tmp_path / "i").exists()
    index.save(tmp_path / "i")
    with monkeypatch.context() as patch:
        patch.setattr(IndexStore, "commit", full)
        with Unchanged(index, StoreError, "no space"):
            index.add(X)
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 300


def test_loading_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    for place in ("gone", "folder"):
        with pytest.raises(IndexNotFoundError, match=place):
            HiHPQIndex.load(tmp_path / place)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("codec.safetensors", lambda data: data[:-1]),
        ("codec.safetensors", lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:]),
        ("codec.json", lambda data: data.replace(b'"score": "l1"', b'"score": "l2"')),
        ("codec.json", lambda data: b""),
        ("manifest.json", lambda data: data.replace(b'"M":3', b'"M":2')),
        ("manifest.json", lambda data: data[: len(data) // 2]),
        ("manifest.json", lambda data: b"{}"),
        ("shards/000000.h5", lambda data: data[:-1]),
    ],
)
def test_a_damaged_file_is_named(make, tmp_path, file, damage):
    make(X).save(tmp_path / "i")
    path = tmp_path / "i" / file
    data = path.read_bytes()
    assert damage(data) != data
    path.write_bytes(damage(data))
    with pytest.raises(StoreError, match=path.name) as caught:
        HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["codec.safetensors", "codec.json", "shards/000000.h5"])
def test_a_missing_file_is_named(make, tmp_path, file):
    make(X).save(tmp_path / "i")
    (tmp_path / "i" / file).unlink()
    with pytest.raises(CorruptIndexError, match=os.path.basename(file)):
        HiHPQIndex.load(tmp_path / "i", device="cpu")


def test_altered_codes_are_found_by_verify(make, tmp_path):
    make(X).save(tmp_path / "i")
    path = tmp_path / "i/shards/000000.h5"
    data = bytearray(path.read_bytes())
    data[data.index(make().encode(X)[:9, 0].tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptIndexError, match="checksum"):
        HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True)


def forge(path, edit):
    """Change a manifest as somebody would who knows the format."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["checksum"]
    edit(manifest)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    manifest["checksum"] = checksum(text)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    (path / "manifest.json").write_bytes(text + b"\n")


def test_forging_works(make, tmp_path):
    make(X).save(tmp_path / "i")
    before = (tmp_path / "i/manifest.json").read_bytes()
    forge(tmp_path / "i", lambda manifest: None)
    assert (tmp_path / "i/manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"M": 4}, "disagree"),
        ({"d": 13}, "disagree"),
        ({"nbits": 4}, "disagree"),
        ({"score": "chord"}, "disagree"),
        ({"score": None}, "disagree"),
        ({"metadata": [1, 2]}, "metadata"),
        ({"metadata": "text"}, "metadata"),
    ],
    ids=str,
)
def test_settings_that_disagree_with_the_codec(make, tmp_path, settings, match):
    make(X).save(tmp_path / "i")
    forge(tmp_path / "i", lambda manifest: manifest["settings"].update(settings))
    with pytest.raises(CorruptIndexError, match=match):
        HiHPQIndex.load(tmp_path / "i", device="cpu")


def test_a_codec_of_another_size_is_refused(make, tmp_path):
    """The codec files of one index with the shards of another."""
    three, four = tmp_path / "three", tmp_path / "four"
    make(X).save(three)
    other = make(X, kind=(4, 4, "chord"))
    settings = {"d": D_IN, "M": 4, "nbits": 4, "score": "chord"}
    store = IndexStore.create(four, settings=settings, files=to_files(other.codec))
    store.commit(append=[Rows(np.zeros((5, 3), np.uint8), np.arange(5))])
    with pytest.raises(CorruptIndexError, match="codes of another size than 2"):
        HiHPQIndex.load(four, device="cpu")


def test_write_index_leaves_the_index_as_it_is(filled, tmp_path):
    place = filled.path
    write_index(filled, tmp_path / "copy")
    assert filled.path == place
    before = (tmp_path / "copy/manifest.json").read_bytes()
    filled.add(X[:50])
    assert (tmp_path / "copy/manifest.json").read_bytes() == before
    copied = HiHPQIndex.load(tmp_path / "copy", device="cpu", verify=True)
    assert (copied.ntotal, filled.ntotal) == (300, 350)
    # And in the place of the copy.
    write_index(filled, tmp_path / "copy")
    assert HiHPQIndex.load(tmp_path / "copy", device="cpu").ntotal == 350
    assert filled.path == place


def test_write_index_where_the_index_is_writes_nothing(make, tmp_path):
    index = make(X)
    index.save(tmp_path / "i")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")}
    write_index(index, tmp_path / "i")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "i").rglob("*")} == before


def test_a_clone_is_in_memory_and_saved_apart(make, tmp_path):
    index = make(X)
    index.save(tmp_path / "a")
    clone = index.clone()
    assert clone.path is None
    clone.save(tmp_path / "b")
    clone.remove_ids([1, 2])
    assert (clone.path, clone.ntotal) == (tmp_path / "b", 298)
    assert HiHPQIndex.load(tmp_path / "a", device="cpu").ntotal == index.ntotal == 300


def test_an_index_that_is_replaced_while_it_is_loaded(make, tmp_path, monkeypatch):
    """Codec and rows are those of the index that was opened: its files stay readable."""
    make(X[:20]).save(tmp_path / "i")
    other = HiHPQIndex.from_codec(make(X[:20]).codec.with_bits(8), device="cpu")
    other.add(X[:7])
    real, opened = IndexStore.open, []

    def open_and_replace(*arguments, **options):
        store = real(*arguments, **options)
        opened.append(store)
        if len(opened) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(IndexStore, "open", real)
                other.save(tmp_path / "i", overwrite=True)
        return store

    monkeypatch.setattr(IndexStore, "open", open_and_replace)
    index = HiHPQIndex.load(tmp_path / "i", device="cpu")
    assert len(opened) == 1
    assert (index.ntotal, index.M) == (20, 3)
    assert HiHPQIndex.load(tmp_path / "i", device="cpu").ntotal == 7
    assert other.M == 1


def test_writing_to_a_folder_of_other_files_says_that_it_is_not_empty(make, tmp_path):
    """Who writes an index is not to make one with `hyperpq build`."""
    index, folder = make(X[:20]), tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.tex").write_text("words")
    for write in (
        lambda: write_index(index, folder),
        lambda: index.save(folder, overwrite=True),
        lambda: index.save(folder),
    ):
        with pytest.raises(StoreError, match=r"thesis: the folder is not empty \(chapter.tex\)"):
            write()
        assert [path.name for path in folder.iterdir()] == ["chapter.tex"]
    assert index.path is None


def test_another_save_ends_before_this_one_has_its_lock(make, tmp_path, monkeypatch):
    """The other one removes the working directory, which this one has found or made."""
    index, other = make(X[:10]), make(X[:20])
    mkdir, done = os.mkdir, []

    def late(path, *args, **kwargs):
        mkdir(path, *args, **kwargs)
        if "saving" in os.fspath(path) and not done:
            done.append(None)
            other.save(tmp_path / "i")

    monkeypatch.setattr(os, "mkdir", late)
    index.save(tmp_path / "i", overwrite=True)
    assert done
    assert HiHPQIndex.load(tmp_path / "i", device="cpu", verify=True).ntotal == 10
    assert os.listdir(tmp_path) == ["i"]
