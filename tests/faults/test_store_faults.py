"""The store when it is killed, out of disk space, torn or forged."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xxhash
from fault_tools import damage, in_child, kill_before_call
from store_tools import rewrite_manifest

from hyperpq.errors import CorruptIndexError, HyperPQError, IndexNotFoundError, StoreError
from hyperpq.store import IndexStore, Rows, recover_directory, replace_directory


def rows_of(ids) -> Rows:
    """Rows whose whole content follows from their ids, so that a torn one shows."""
    ids = np.asarray(ids, np.int64)
    codes = (ids[:, None] * np.array([1, 3, 5, 7])).astype(np.uint8)
    attributes = {
        "half": ids / 2,
        "kind": [f"kind {i % 3}" for i in ids],
        "when": (ids * 10**9).view("M8[ns]"),
    }
    features = (ids[:, None] * np.arange(9)).astype(np.uint8)
    return Rows(codes, ids, attributes, [b"path-%d" % i for i in ids], features)


def contents(store: IndexStore) -> list[int]:
    """Ids of the live rows, after checking every row against its id."""
    ids = []
    for shard in store.segments:
        expected = rows_of(shard.ids)
        np.testing.assert_array_equal(shard.codes, expected.codes)
        np.testing.assert_array_equal(shard.attribute("half"), expected.attributes["half"])
        np.testing.assert_array_equal(shard.attribute("when"), expected.attributes["when"])
        assert shard.attribute("kind").strings() == expected.attributes["kind"].strings()
        assert shard.paths == expected.paths
        np.testing.assert_array_equal(shard.features, expected.features)
        ids += np.delete(shard.ids, shard.deleted_rows).tolist()
    return ids


def make_store(path: Path) -> IndexStore:
    store = IndexStore.create(path, settings={"score": "l1"}, files={"codec.bin": b"codec" * 9})
    store.commit(append=[rows_of(range(5)), rows_of(range(5, 12))], next_id=12)
    store.commit(delete={1: [6, 0]})
    return store


def test_kill_between_each_two_system_calls_of_create(tmp_path, monkeypatch):
    number, status = 0, signal.SIGKILL
    while status == signal.SIGKILL:
        root = tmp_path / f"index{number}"
        arguments = {"settings": {}, "files": {"codec.bin": b"codec"}}
        work = lambda: IndexStore.create(root, **arguments)  # noqa: B023, E731
        status = kill_before_call(monkeypatch, number, work)
        try:
            store = IndexStore.open(root, verify=True)
        except IndexNotFoundError:
            store = IndexStore.create(root, **arguments)
        assert store.read_file("codec.bin") == b"codec"
        assert damage(root) == []
        number += 1
    assert status == 0
    assert number > 5


def test_kill_between_each_two_system_calls_of_a_replacement(tmp_path, monkeypatch):
    former = make_store(tmp_path / "former").path
    latter = IndexStore.create(tmp_path / "latter", settings={}, files={})
    latter.commit(append=[rows_of([100])])
    found, number, status = [], 0, signal.SIGKILL
    while status == signal.SIGKILL:
        place = tmp_path / f"place{number}"
        shutil.copytree(former, place / "index")
        shutil.copytree(latter.path, place / "new")
        work = lambda: replace_directory(place / "new", place / "index")  # noqa: B023, E731
        status = kill_before_call(monkeypatch, number, work)
        names = os.listdir(place)
        found.append(contents(IndexStore.open(place / "index", verify=True)))
        assert os.listdir(place) == names
        # The next writer repairs what readers leave alone.
        IndexStore.open(place / "index").remove_leftovers()
        assert set(os.listdir(place)) == ({"index", "new"} if found[-1] != [100] else {"index"})
        number += 1
    assert status == 0
    old = contents(IndexStore.open(former))
    assert found == [old] * found.count(old) + [[100]] * found.count([100])
    assert found.count(old) >= 2
    assert found.count([100]) >= 2


def test_a_full_disk_for_real(tmp_path):
    """The kernel's own refusal, by a limit on the size of files, instead of an injected one."""
    store = make_store(tmp_path / "index")
    before = contents(store)

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(StoreError, match=r"shards/.*cannot write: File too large"):
            store.commit(append=[rows_of(range(100, 10_000))])
        assert not list((store.path / "shards").glob(".*"))
        store.commit(append=[rows_of([50])])

    assert in_child(child) == 0
    assert contents(IndexStore.open(store.path, verify=True)) == [*before, 50]


FILES = (
    "manifest.json",
    "codec.bin",
    "shards/000000.h5",
    "shards/000001.h5",
    "dead/000001-00000003.h5",
)


def flip_bit(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(FILES)
    os.truncate(path, rng.randrange(path.stat().st_size))


def extend(root: Path, rng: random.Random) -> None:
    with open(root / rng.choice(FILES), "ab") as file:
        file.write(bytes(rng.choice((1, 7, 4096))))


def overwrite(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(FILES)
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) - 8)
    data[start : start + 8] = rng.randbytes(8)
    path.write_bytes(data)


def swap(root: Path, rng: random.Random) -> None:
    first, second = (root / name for name in rng.sample(FILES, 2))
    os.rename(first, root / "aside")
    os.rename(second, first)
    os.rename(root / "aside", second)


def remove(root: Path, rng: random.Random) -> None:
    (root / rng.choice(FILES)).unlink()


def put_something_else(root: Path, rng: random.Random) -> None:
    path = root / rng.choice(FILES)
    data = path.read_bytes()
    path.unlink()
    kind = rng.choice(("link", "folder", "pipe"))
    if kind == "link":
        (root.parent / "outside").write_bytes(data)
        path.symlink_to(root.parent / "outside")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)


MUTATIONS = (flip_bit, truncate, extend, overwrite, swap, remove, put_something_else)


def read_everything(root: Path) -> None:
    store = IndexStore.open(root)
    for name in store.file_names:
        store.read_file(name)
    for shard in store.segments:
        shard.codes.sum(), shard.ids.sum(), shard.live_bits, shard.paths, shard.features.sum()
        for name in shard.attribute_names:
            np.unique(getattr(shard.attribute(name), "codes", shard.attribute(name)))


def test_mutated_directories_are_found_out(tmp_path, capsys):
    original = make_store(tmp_path / "original").path
    root = tmp_path / "index"
    rng = random.Random(2)
    count = 100
    for trial in range(count):
        shutil.copytree(original, root)
        MUTATIONS[trial % len(MUTATIONS)](root, rng)
        with pytest.raises(StoreError):
            IndexStore.open(root, verify=True)
        try:
            assert damage(root) != []
        except IndexNotFoundError:
            assert not (root / "manifest.json").exists()
        with suppress(HyperPQError):
            read_everything(root)
        shutil.rmtree(root)
    with capsys.disabled():
        print(f"\nstore: {count} mutated directories, each found out")


HOSTILE = {
    "file outside": lambda m: m["files"].update({"../outside": m["files"]["codec.bin"]}),
    "absolute file": lambda m: m["files"].update({"/etc/passwd": m["files"]["codec.bin"]}),
    "manifest as file": lambda m: m["files"].update({"manifest.json": m["files"]["codec.bin"]}),
    "endless file": lambda m: m["files"]["codec.bin"].update(bytes=2**62),
    "shard outside": lambda m: m["shards"][0].update(file="shards/../../000000.h5"),
    "shard twice": lambda m: m["shards"].append(m["shards"][0]),
    "shard unpadded": lambda m: m["shards"][0].update(file="shards/0000000.h5"),
    "shard to come": lambda m: m.update(next_shard=1),
    "rows": lambda m: m["shards"][0].update(rows=2**60),
    "negative rows": lambda m: m["shards"][0].update(rows=-1),
    "rows true": lambda m: m["shards"][0].update(rows=True),
    "rows float": lambda m: m["shards"][0].update(rows=5.0),
    "code_size": lambda m: m["shards"][0].update(code_size=8),
    "no codes": lambda m: m["shards"][0]["columns"].pop("codes"),
    "no offsets": lambda m: m["shards"][0]["columns"].pop("path_offsets"),
    "far offset": lambda m: m["shards"][0]["columns"]["codes"].update(offset=2**62),
    "negative offset": lambda m: m["shards"][0]["columns"]["ids"].update(offset=-8),
    "odd offset": lambda m: m["shards"][0]["columns"]["ids"].update(offset=513),
    "huge paths": lambda m: m["shards"][0]["columns"]["path_bytes"].update(shape=[2**62]),
    "wrong shape": lambda m: m["shards"][0]["columns"]["codes"].update(shape=[4, 5]),
    "object dtype": lambda m: m["shards"][0]["columns"]["attributes/half"].update(dtype="O"),
    "column name": lambda m: m["shards"][0]["columns"].update(
        {"attributes/../x": m["shards"][0]["columns"]["attributes/half"]}
    ),
    "other column": lambda m: m["shards"][0]["columns"]["attributes/half"].update(offset=1024),
    "no labels": lambda m: m["shards"][0]["columns"].pop("label_bytes/kind"),
    "no categories": lambda m: m["shards"][0]["columns"].pop("categories/kind"),
    "many labels": lambda m: m["shards"][0]["columns"]["label_offsets/kind"].update(shape=[99]),
    "no label": lambda m: m["shards"][0]["columns"]["label_offsets/kind"].update(shape=[0]),
    "category dtype": lambda m: m["shards"][0]["columns"]["categories/kind"].update(dtype="int64"),
    "time dtype": lambda m: m["shards"][0]["columns"]["times/when"].update(dtype="float64"),
    "one name twice": lambda m: m["shards"][0]["columns"].update(
        {"times/half": m["shards"][0]["columns"]["times/when"]}
    ),
    "unknown group": lambda m: m["shards"][0]["columns"].update(
        {"others/half": m["shards"][0]["columns"]["times/when"]}
    ),
    "ids range": lambda m: m["shards"][0].update(ids=[0, 99]),
    "no ids range": lambda m: m["shards"][0].update(ids=None),
    "all dead": lambda m: m["shards"][1]["dead"].update(rows=7),
    "more than all dead": lambda m: m["shards"][1]["dead"].update(rows=8),
    "huge dead": lambda m: m["shards"][1]["dead"].update(bytes=2**40),
    "dead of another": lambda m: m["shards"][0].update(dead=m["shards"][1]["dead"]),
    "dead outside": lambda m: m["shards"][1]["dead"].update(file="dead/../../x.h5"),
    "dead to come": lambda m: m.update(generation=2),
    "checksum": lambda m: m["shards"][0].update(xxh3_128=["0" * 32]),
    "no checksum": lambda m: m["shards"][0].update(xxh3_128=[]),
    "two checksums": lambda m: m["shards"][0].update(xxh3_128=m["shards"][0]["xxh3_128"] * 2),
    "checksum text": lambda m: m["shards"][0].update(xxh3_128="0" * 32),
    "checksum type": lambda m: m["shards"][0].update(xxh3_128=None),
    "unknown key": lambda m: m.update(extra=1),
    "missing key": lambda m: m.pop("next_id"),
    "features outside": lambda m: m["shards"][0]["columns"]["features"].update(offset=2**62),
    "wide features": lambda m: [
        shard["columns"]["features"].update(shape=[shard["rows"], 2**24]) for shard in m["shards"]
    ],
    "features of one shard": lambda m: m["shards"][0]["columns"].pop("features"),
    "no features": lambda m: [shard["columns"].pop("features") for shard in m["shards"]],
    "other features": lambda m: m["shards"][0]["columns"]["features"].update(offset=1024),
    "former": lambda m: m.update(former=["x"]),
    "generation 0": lambda m: m.update(generation=0),
    "next_id": lambda m: m.update(next_id=2**63),
    "format": lambda m: m.update(format="hyperpq"),
    "version 0": lambda m: m.update(version=0),
    "version text": lambda m: m.update(version="1"),
    "settings": lambda m: m.update(settings=[]),
    "files": lambda m: m.update(files=[]),
    "shards": lambda m: m.update(shards={}),
    "a shard": lambda m: m.update(shards=[None]),
    "columns": lambda m: m["shards"][0].update(columns=None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_forged_manifests_are_found_out(tmp_path, name):
    root = make_store(tmp_path / "index").path
    rewrite_manifest(root, HOSTILE[name])
    with pytest.raises(CorruptIndexError, match=str(root)):
        IndexStore.open(root, verify=True)
    assert damage(root) != []
    with suppress(CorruptIndexError):
        read_everything(root)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b'{"format":"hyperpq-index","format":"hyperpq-index"}',
        b'{"format":"hyperpq-index","version":' + b"9" * 5000 + b"}",
        b'{"format":"hyperpq-index","version":NaN}',
        b"\xff\xfe",
        b"\x00" * 1000,
    ],
)
def test_text_that_is_no_manifest(tmp_path, text):
    root = make_store(tmp_path / "index").path
    (root / "manifest.json").write_bytes(text)
    with pytest.raises(CorruptIndexError, match=r"manifest.json: .*torn or altered"):
        IndexStore.open(root)
    assert damage(root) == ["manifest.json"]


def test_sparse_giants_ask_for_no_memory(tmp_path):
    root = make_store(tmp_path / "index").path
    os.truncate(root / "manifest.json", 1 << 40)
    with pytest.raises(CorruptIndexError, match="at most"):
        IndexStore.open(root)


def test_forged_hdf5_with_right_checksums_never_crashes_the_reader(tmp_path, capsys):
    """Only `verify` lets HDF5 parse a file; here a stranger has made the checksum fit."""
    root = make_store(tmp_path / "index").path
    path = root / "shards/000000.h5"
    original = path.read_bytes()
    offsets = [i for i, byte in enumerate(original) if byte]
    found = tmp_path / "found"

    def child():
        rng = random.Random(3)
        for _ in range(150):
            data = bytearray(original)
            for _ in range(rng.choice((1, 2, 4))):
                data[rng.choice(offsets)] = rng.choice((0, 255, rng.randrange(256)))
            path.write_bytes(data)
            digest = xxhash.xxh3_128_hexdigest(bytes(data))
            rewrite_manifest(
                root, lambda m, digest=digest: m["shards"][0].update(xxh3_128=[digest])
            )
            with open(found, "a") as file:
                file.write("damage\n" if damage(root) else "fine\n")

    assert in_child(child) == 0
    verdicts = found.read_text().split()
    assert len(verdicts) == 150
    # The rest are changed codes, attributes or padding: true files that hold something else.
    assert verdicts.count("damage") > 75
    with capsys.disabled():
        print(f"\nstore: 150 forged HDF5 files, {verdicts.count('damage')} refused, no crash")


def test_a_crashed_replacement_doesnt_lose_the_former_index(tmp_path):
    """`old` has stepped aside and someone has made an empty folder in its place."""
    former = make_store(tmp_path / "index").path
    os.rename(former, tmp_path / "index.old-hyperpq")
    former.mkdir()
    recover_directory(former)
    assert len(contents(IndexStore.open(former, verify=True))) == 10
    os.rename(former, tmp_path / "index.old-hyperpq")
    with pytest.raises(StoreError, match="already an index"):
        IndexStore.create(former, settings={}, files={})
