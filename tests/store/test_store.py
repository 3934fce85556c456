"""The store: round trips, strict reading, durable order, locks, replacement."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
import weakref
from collections import Counter
from datetime import datetime, timedelta, timezone
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq.errors import (
    CorruptIndexError,
    FormatVersionError,
    IndexLockedError,
    IndexNotFoundError,
    InvalidInputError,
    StoreError,
)
from hyperpq.store import (
    Categories,
    IndexStore,
    MemoryStore,
    Rows,
    Shard,
    atomic_write,
    live_blocks,
    recover_directory,
    replace_directory,
    row_store,
    verify,
    verify_directory,
)
from hyperpq.store.columns import NUMBERS, as_column, conform, kind_of
from hyperpq.utils.files import CHECKED, writer_lock


def make_rows(n: int, code_size: int = 4, first: int = 0, paths: bool = True) -> Rows:
    rng = np.random.default_rng(first + n)
    return Rows(
        codes=rng.integers(0, 256, (n, code_size), np.uint8),
        ids=np.arange(first, first + n),
        attributes={
            name: rng.integers(0, 99, n).astype(name, copy=False) for name in ("int32", "float64")
        },
        paths=[b"dir\xff/%d" % i for i in range(first, first + n)] if paths else None,
    )


def make_store(path: Path) -> IndexStore:
    store = IndexStore.create(
        path, settings={"score": "l1"}, files={"codec.safetensors": b"c" * 99}
    )
    store.commit(append=[make_rows(5), make_rows(7, first=5)], next_id=12)
    store.commit(remove={1: np.array([6, 0])})
    return store


def assert_same_rows(stored, rows) -> None:
    assert stored.n == rows.n
    assert stored.code_size == rows.code_size
    np.testing.assert_array_equal(stored.codes, rows.codes, strict=True)
    np.testing.assert_array_equal(stored.ids, rows.ids, strict=True)
    assert stored.attribute_names == rows.attribute_names
    for name in rows.attribute_names:
        column, expected = stored.attribute(name), rows.attribute(name)
        if isinstance(expected, Categories):
            assert column.strings() == expected.strings()
        else:
            np.testing.assert_array_equal(column, expected, strict=True)
    assert stored.paths == rows.paths
    if rows.paths is not None:
        assert [stored.path(row) for row in range(rows.n)] == rows.paths


def contents(store) -> dict[int, tuple]:
    """Live rows by id."""
    out = {}
    for rows in live_blocks(store.pieces):
        columns = [rows.attribute(name) for name in rows.attribute_names]
        values = [c.strings() if isinstance(c, Categories) else c.tolist() for c in columns]
        paths = rows.paths or [None] * rows.n
        facts = zip(rows.codes.tolist(), paths, *values, strict=True)
        out |= {
            id: (tuple(code), *rest)
            for id, (code, *rest) in zip(rows.ids.tolist(), facts, strict=True)
        }
    return out


def rewrite_manifest(root: Path, change) -> None:
    """Change the manifest's content and give it a right checksum, as a forger would."""
    path = root / "manifest.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    content = change(content) or content

    def canonical(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    content["checksum"] = xxhash.xxh3_128_hexdigest(canonical(content))
    path.write_bytes(canonical(content) + b"\n")


LABELS = st.none() | st.sampled_from(["", "cats", "dogs", "é" * 9]) | st.text(max_size=5)


def drawn_column(draw, kind: str, n: int):
    if kind == "category":
        strings = draw(st.lists(LABELS, min_size=n, max_size=n))
        try:
            "".join(filter(None, strings)).encode()
        except UnicodeEncodeError:
            strings = [None] * n
        return Categories.from_strings(strings)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind == "time":
        return np.frombuffer(rng.bytes(n * 8), "datetime64[ns]")
    return np.frombuffer(rng.bytes(n * np.dtype(kind).itemsize), kind)


@st.composite
def drawn_rows(draw, code_size: int, number: int, schema: dict[str, str]) -> Rows:
    n = draw(st.integers(0, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = {name: kind for name, kind in schema.items() if name != "path"}
    return Rows(
        codes=rng.integers(0, 256, (n, code_size), np.uint8),
        ids=(rng.permutation(n) + 20 * number - 30) * 2**57,
        attributes={name: drawn_column(draw, kind, n) for name, kind in columns.items()},
        paths=draw(st.lists(st.binary(max_size=30), min_size=n, max_size=n))
        if "path" in schema
        else None,
    )


SCHEMAS = st.dictionaries(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{3,63}_", fullmatch=True),
    st.sampled_from([*NUMBERS, "time", "category"]),
    max_size=4,
).flatmap(lambda kinds: st.sampled_from([kinds, kinds | {"path": "path"}]))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), code_size=st.integers(1, 64), schema=SCHEMAS)
def test_what_is_committed_is_read_back(data, code_size, schema, tmp_path_factory):
    root = tmp_path_factory.mktemp("store") / "index"
    count = data.draw(st.integers(1, 3))
    batches = [data.draw(drawn_rows(code_size, number, schema)) for number in range(count)]
    store = IndexStore.create(
        root, settings={"x": [1, None, "é"]}, files={"a": b"", "b.bin": b"xy"}
    )
    store.commit(append=batches, next_id=77)
    opened = IndexStore.open(root, verify=True)
    for view in (store, opened):
        assert [shard.name for shard in view.shards] == [f"{i:06d}" for i in range(len(batches))]
        for shard, rows in zip(view.shards, batches, strict=True):
            assert_same_rows(shard, rows)
            assert shard.schema == rows.schema == schema
            assert (shard.dead_rows.size, shard.dead) == (0, None)
        assert view.ntotal == sum(rows.n for rows in batches)
        assert (view.settings, view.next_id) == ({"x": [1, None, "é"]}, 77)
        assert (view.read_file("a"), view.read_file("b.bin")) == (b"", b"xy")
    assert opened.verify() == []
    # Some of the rows, in another order.
    for shard, rows in zip(opened.shards, batches, strict=True):
        some = np.array(data.draw(st.permutations(range(rows.n))), np.int64)[: rows.n // 2]
        assert_same_rows(shard.take(some), rows.take(some))
        np.testing.assert_array_equal(shard.take(some).ids, np.sort(rows.ids[some]))


def test_removals_add_up_and_old_files_go(tmp_path):
    store = make_store(tmp_path / "index")
    assert store.ntotal == 10
    store.commit(remove={1: np.array([0, 3, 3], np.uint8), 0: []})
    assert store.shards[1].dead_rows.tolist() == [0, 3, 6]
    assert store.ntotal == 9
    assert sorted(os.listdir(tmp_path / "index/dead")) == ["000001-00000004.h5"]
    opened = IndexStore.open(tmp_path / "index", verify=True)
    assert opened.shards[1].dead.tolist() == [True, False, False, True, False, False, True]
    assert opened.verify() == []


def test_a_store_can_be_copied_without_what_is_removed(tmp_path):
    source = make_store(tmp_path / "a")
    target = IndexStore.create(tmp_path / "b", settings={}, files={})
    target.commit(append=live_blocks(source.shards, size=3))
    assert [shard.n for shard in target.shards] == [3, 2, 2, 3]
    assert contents(target) == contents(source)


def test_columns_are_mapped_not_read(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    rows = make_rows(30_000, code_size=8)
    store.commit(append=[rows])
    shard = IndexStore.open(tmp_path / "index").shards[0]
    assert_same_rows(shard, rows)
    assert isinstance(shard.tiled.data, np.memmap)
    assert isinstance(shard.ids, np.memmap)
    assert not shard.tiled.data.flags.writeable
    # A byte changed in the file shows in the array: it is the file, at HDF5's own offset.
    with h5py.File(tmp_path / "index/shards/000000.h5", "r") as file:
        offset = file["codes"].id.get_offset()
        np.testing.assert_array_equal(as_documented(file, len(rows.codes)), rows.codes)
        assert file["path_bytes"][:].tobytes() == b"".join(rows.paths)
    with open(tmp_path / "index/shards/000000.h5", "r+b") as file:
        file.seek(offset)
        file.write(bytes([rows.codes[0, 0] ^ 255]))
    assert shard.codes[0, 0] == rows.codes[0, 0] ^ 255


def as_documented(file, rows):
    """The codes by the lines of docs/format.md."""
    text = (Path(__file__).parents[2] / "docs/format.md").read_text("utf-8")
    (lines,) = re.findall(r"In Python all of them.*?\n\n((?:    .*\n)+)", text)
    names = {"np": np, "file": file, "rows": rows}
    names["code_size"] = file["codes"].size // (64 * -(-rows // 64)) if rows else 1
    exec(textwrap.dedent(lines), names)
    return names["codes"]


def test_h5py_reads_every_dataset(tmp_path):
    store = make_store(tmp_path / "index")
    for shard in store.shards:
        with h5py.File(tmp_path / "index" / shard.entry.file, "r") as file:
            assert sorted(file) == ["attributes", "codes", "ids", "path_bytes", "path_offsets"]
            np.testing.assert_array_equal(as_documented(file, shard.n), shard.codes)
            np.testing.assert_array_equal(file["attributes/int32"][:], shard.attribute("int32"))
    with h5py.File(tmp_path / "index/dead/000001-00000003.h5", "r") as file:
        assert file["rows"][:].tolist() == [0, 6]


def test_equal_content_gives_identical_files(tmp_path):
    stores = [make_store(tmp_path / "a")]
    time.sleep(1.1)  # HDF5 keeps times in seconds
    stores.append(make_store(tmp_path / "b"))
    listed = [
        sorted(p.relative_to(s.path) for p in s.path.rglob("*") if p.is_file()) for s in stores
    ]
    assert listed[0] == listed[1]
    for name in listed[0]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert stores[0].fingerprint() == stores[1].fingerprint()


def test_fingerprint_is_of_the_content(tmp_path):
    store = make_store(tmp_path / "index")
    seen = [store.fingerprint()]
    store.commit()
    assert store.fingerprint() == seen[0]
    store.commit(settings={"score": "chord"})
    seen.append(store.fingerprint())
    store.commit(remove={0: [1]})
    seen.append(store.fingerprint())
    store.commit(append=[make_rows(1, first=50)])
    seen.append(store.fingerprint())
    assert len(set(seen)) == 4


def test_importing_the_store_is_light():
    code = "import sys, hyperpq.store; print({'torch', 'faiss', 'h5py'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_opening_reads_small_shards_and_maps_large_ones(tmp_path):
    store = make_store(tmp_path / "index")
    store.commit(append=[make_rows(9000, first=100)])
    small, _, large = IndexStore.open(tmp_path / "index").shards
    assert not isinstance(small.ids, np.memmap)
    assert isinstance(large.ids, np.memmap)
    for number, byte in ((2, -1), (0, 700)):
        file = tmp_path / f"index/shards/{number:06d}.h5"
        data = bytearray(file.read_bytes())
        data[byte] ^= 1
        file.write_bytes(data)
        if number == 2:
            # Its checksum is compared by verify alone.
            assert IndexStore.open(tmp_path / "index").ntotal == 9010
            assert [problem.file for problem in store.verify()] == ["shards/000002.h5"]
    with pytest.raises(CorruptIndexError, match=r"000000.h5: the checksum is wrong"):
        IndexStore.open(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"codes": np.zeros((3, 4), np.int8)}, "codes: int8"),
        ({"codes": np.zeros(12, np.uint8)}, "codes"),
        ({"codes": np.zeros((3, 0), np.uint8)}, "code_size is 0"),
        ({"codes": [[1]]}, "codes: list"),
        ({"ids": np.arange(3, dtype=np.int32)}, "ids: int32"),
        ({"ids": np.arange(3, dtype=">i8")}, "ids: >i8"),
        ({"ids": np.arange(2)}, r"expected int64 \(3,\)"),
        ({"ids": np.array([4, 2, 4])}, "ids: 4 occurs twice"),
        ({"attributes": {"x": np.zeros(3, complex)}}, "attribute x has dtype complex128"),
        ({"attributes": {"x": np.zeros(4)}}, r"attribute x has shape \(4,\); expected \(3,\)"),
        ({"attributes": {"x": np.zeros((3, 1))}}, "attribute x has shape"),
        ({"attributes": {"x": ["a", 1, None]}}, "attribute x has 1 among"),
        ({"attributes": {"x": ["a", "b", "c" * 1001]}}, "1001 bytes; at most 1000"),
        ({"attributes": {"x": ["a", "b", "\ud800"]}}, "isn't valid Unicode"),
        ({"attributes": {"x": [0, 1.5, 2**63]}}, "attribute x has 9223372036854775808; integers"),
        ({"attributes": {"x": np.array([0, 1, 2**63], "u8")}}, "goes up to 9223372036854775808"),
        ({"attributes": {"x": ["1500-01-01"] * 3}}, None),
        ({"attributes": {"x": np.array(["1500-01-01"] * 3, "M8[D]")}}, "before 1677 or after"),
        ({"attributes": {"x": [1, [2], 3]}}, "attribute x can't be read as an array"),
        ({"attributes": {"x-y": np.zeros(3)}}, "attribute 'x-y'"),
        ({"attributes": {"x" * 65: np.zeros(3)}}, "attribute"),
        ({"attributes": {"path": np.zeros(3)}}, "attribute 'path'"),
        ({"attributes": {"and": np.zeros(3)}}, "attribute 'and'"),
        ({"paths": [b"a"]}, "paths: 1 given for 3 rows"),
        ({"paths": ["a", "b", "c"]}, "must be bytes"),
    ],
)
def test_rows_are_checked(change, match):
    fields = {"codes": np.zeros((3, 4), np.uint8), "ids": np.arange(3)}
    if match is None:
        Rows(**(fields | change))
        return
    with pytest.raises(InvalidInputError, match=match):
        Rows(**(fields | change))


def test_rows_take_any_memory_order():
    codes = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    rows = Rows(codes, np.arange(6)[::2])
    assert rows.codes.flags.c_contiguous
    assert rows.ids.tolist() == [0, 2, 4]


def test_bad_commits_change_nothing(tmp_path):
    store = make_store(tmp_path / "index")
    before = (store.generation, store.fingerprint(), sorted(os.listdir(tmp_path / "index/shards")))
    for arguments in (
        {"append": [make_rows(2, code_size=5)]},
        {"remove": {9: [0]}},
        {"remove": {0: [5]}},
        {"remove": {0: [-1]}},
        {"remove": {0: [0.5]}},
        {"append": [make_rows(2, first=70, paths=False)]},
        {"settings": {"x": float("nan")}},
        {"settings": {"x": object()}},
        {"next_id": -1},
        {"next_id": 2**63},
    ):
        with pytest.raises(InvalidInputError):
            store.commit(**arguments)
    after = (store.generation, store.fingerprint(), sorted(os.listdir(tmp_path / "index/shards")))
    assert after == before
    with pytest.raises(InvalidInputError, match="no such column"):
        store.shards[0].attribute("width")
    with pytest.raises(InvalidInputError, match="row 5"):
        store.shards[0].path(5)


def test_create_needs_a_free_place(tmp_path):
    (tmp_path / "empty").mkdir()
    IndexStore.create(tmp_path / "empty", settings={}, files={})
    with pytest.raises(StoreError, match="already an index"):
        IndexStore.create(tmp_path / "empty", settings={}, files={})
    (tmp_path / "full").mkdir()
    (tmp_path / "full/holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"not empty \(holiday.jpg\)"):
        IndexStore.create(tmp_path / "full", settings={}, files={})
    assert os.listdir(tmp_path / "full") == ["holiday.jpg"]
    # An index that has lost its manifest isn't a free place: its shards may be all there is.
    (make_store(tmp_path / "index").path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not empty"):
        IndexStore.create(tmp_path / "index", settings={}, files={"codec.safetensors": b""})
    for name in ("manifest.json", "../x", "a/b", ".lock", "", "x.tmp", "shards"):
        with pytest.raises(InvalidInputError, match="files"):
            IndexStore.create(tmp_path / "new", settings={}, files={name: b""})
    assert not (tmp_path / "new").exists()


def test_opening_nothing_says_what_to_do(tmp_path):
    with pytest.raises(IndexNotFoundError, match=r"no such folder.*hyperpq build"):
        IndexStore.open(tmp_path / "nowhere")
    with pytest.raises(IndexNotFoundError, match=r"no manifest.json.*hyperpq build"):
        IndexStore.open(tmp_path)


def test_reports(tmp_path):
    store = make_store(tmp_path / "index")
    assert store.read_report("skipped.csv") is None
    store.write_report("skipped.csv", b"one")
    store.write_report("skipped.csv", b"two")
    assert IndexStore.open(store.path, verify=True).read_report("skipped.csv") == b"two"
    assert store.verify() == []
    for name in ("manifest.json", "../a.csv", "a/b.csv", "a.exe", ".csv", "codec.safetensors", ""):
        with pytest.raises(InvalidInputError):
            store.write_report(name, b"")


@pytest.mark.parametrize(
    ("version", "advice"), [(7, "install a later hyperpq"), (1, "build the index again")]
)
def test_another_format_is_refused_by_name(tmp_path, version, advice):
    make_store(tmp_path / "index")
    rewrite_manifest(tmp_path / "index", lambda m: m.update(version=version))
    message = rf"format version {version}, .* reads version 3; {advice}"
    with pytest.raises(FormatVersionError, match=message):
        IndexStore.open(tmp_path / "index")


def test_altered_file_is_named(tmp_path):
    store = make_store(tmp_path / "index")
    (store.path / "codec.safetensors").write_bytes(b"d" * 99)
    with pytest.raises(CorruptIndexError, match=r"codec.safetensors: the checksum is wrong"):
        IndexStore.open(store.path).read_file("codec.safetensors")
    with pytest.raises(CorruptIndexError, match=r"codec.safetensors: the checksum is wrong"):
        IndexStore.open(store.path, verify=True)
    with pytest.raises(CorruptIndexError, match="no file 'other'"):
        store.read_file("other")


def test_verify_finds_ids_that_occur_twice_among_live_rows(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[make_rows(5), make_rows(5, first=3)])
    (problem,) = store.verify()
    assert problem.kind == "damage"
    assert problem.what.startswith("2 ids occur more than once, the first is 3")
    store.commit(remove={0: [3], 1: [1]})
    assert store.verify() == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), shards=st.integers(0, 5), n=st.integers(1, 60))
def test_repeated_ids_are_found_in_all_ranges(seed, shards, n):
    rng = np.random.default_rng(seed)
    found, live = [], []
    for _ in range(shards):
        ids = np.sort(rng.choice(200, n, replace=False))
        gone = np.flatnonzero(rng.random(n) < 0.2)
        found.append((ids, gone))
        live += np.delete(ids, gone).tolist()
    repeated = sorted(id for id, times in Counter(live).items() if times > 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_SAMPLED", 4)
        problems = list(verify._repeated_ids(found))
        assert max(map(len, verify._by_range(found))) <= 4 * 4 + 4 * shards
    if not repeated:
        assert problems == []
        return
    first = f"{len(repeated)} ids occur more than once, the first is {repeated[0]}"
    assert [problem.what for problem in problems] == [first]


def labelled_rows(n: int) -> Rows:
    kinds = [f"kind {i % 300}" if i % 7 else None for i in range(n)]
    return Rows(np.zeros((n, 4), np.uint8), np.arange(n), {"kind": kinds, "number": np.arange(n)})


@pytest.mark.parametrize("rows", [[], [5], [0], [29_999, 3, 3, 7, 0]])
def test_values_of_some_rows(tmp_path, rows):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    given = labelled_rows(30_000)
    store.commit(append=[given])
    for piece in (given, store.shards[0]):
        column = piece.attribute_at("kind", np.array(rows, np.int64))
        assert column.strings() == [given.attribute("kind").strings()[row] for row in rows]
        assert piece.attribute_at("number", np.array(rows, np.int64)).tolist() == rows
    assert set(column.labels) == set(column.strings()) - {None}  # the others weren't read


@pytest.mark.parametrize(
    ("dataset", "wrong", "message"),
    [
        ("categories/kind", b"\xff\xff\xff\x7f" * 9, "/categories/kind is out of range"),
        ("categories/kind", b"\xfe\xff\xff\xff" * 9, "/categories/kind is out of range"),
        ("label_bytes/kind", b"\xff" * 9, "/label_bytes/kind isn't UTF-8"),
        ("label_bytes/kind", b"kind 2kind 2", "/label_bytes/kind has a string twice"),
        ("label_offsets/kind", b"\1" * 8, "/label_offsets/kind: offsets don't rise"),
    ],
)
def test_torn_categories_are_never_read_as_data(tmp_path, dataset, wrong, message):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[labelled_rows(30_000)])
    entry = store.shards[0].entry
    with open(store.path / entry.file, "r+b") as file:  # mapped: no checksum is compared
        file.seek(entry.columns[dataset].offset)
        file.write(wrong)
    (shard,) = IndexStore.open(store.path).shards
    with pytest.raises(CorruptIndexError, match=message):
        shard.attribute("kind")
    with pytest.raises(CorruptIndexError, match=message):
        shard.attribute_at("kind", np.arange(8))


def test_verify_lists_garbage_and_opening_ignores_it(tmp_path):
    store = make_store(tmp_path / "index")
    garbage = ["shards/000002.h5", "shards/.000002.h5.tmp", ".manifest.json.0a.tmp", "notes.doc"]
    for name in garbage:
        (store.path / name).write_bytes(b"torn")
    problems = IndexStore.open(store.path, verify=True).verify()
    assert sorted(p.file for p in problems) == sorted(garbage)
    assert {p.kind for p in problems} == {"garbage"}
    store.commit(append=[make_rows(3, first=20)])
    assert "shards/000002.h5" not in [p.file for p in store.verify()]


def test_read_only_file_system(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    (store.path / ".lock").unlink()

    real_open = os.open

    def read_only_open(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return real_open(path, flags, *rest, **options)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", read_only_open)
    for name in ("mkdir", "unlink", "rename", "replace"):
        monkeypatch.setattr(os, name, refuse)
    opened = IndexStore.open(store.path, verify=True)
    assert_same_rows(opened.shards[0], make_rows(5))
    assert opened.verify() == []
    with pytest.raises(StoreError, match="Read-only file system"):
        opened.commit(next_id=99)


def test_writer_that_fell_behind_is_refused(tmp_path):
    first = make_store(tmp_path / "index")
    second = IndexStore.open(tmp_path / "index")
    first.commit(remove={1: [1]})
    with pytest.raises(StoreError, match="changed by another writer"):
        second.commit(next_id=50)
    # It still reads the generation that it opened, though that one's dead-row file is gone.
    assert (second.ntotal, first.ntotal) == (10, 9)
    assert second.shards[1].dead.sum() == 2
    IndexStore.open(tmp_path / "index").commit(next_id=50)


def test_one_writer_at_a_time(tmp_path):
    store = make_store(tmp_path / "index")
    code = (
        "import sys; from pathlib import Path; from hyperpq.utils.files import writer_lock\n"
        "with writer_lock(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(store.path)], **pipes) as holder:
        assert holder.stdout.readline() == "locked\n"
        who = rf"another process is writing.*\(process {holder.pid} on .* since .* UTC\)"
        with pytest.raises(IndexLockedError, match=who):
            store.commit(next_id=50)
        assert IndexStore.open(store.path, verify=True).ntotal == 10
        holder.kill()
        holder.wait()
    store.commit(next_id=50)
    with writer_lock(store.path), pytest.raises(IndexLockedError):
        store.commit(next_id=51)


def test_commit_syncs_before_it_names(tmp_path, monkeypatch):
    """Every file is synced before it gets its name, and every name before the manifest tells."""
    store = make_store(tmp_path / "index")
    events = []
    opened = {}

    def traced(name, real, note):
        def call(*arguments, **options):
            result = real(*arguments, **options)
            note(arguments, result)
            named = [opened.get(a) if isinstance(a, int) else a for a in arguments[:2]]
            events.append((name, *[str(a) for a in named]))
            return result

        monkeypatch.setattr(os, name, call)

    traced("open", os.open, lambda arguments, result: opened.update({result: arguments[0]}))
    traced("pwrite", os.pwrite, lambda *_: None)
    traced("fsync", os.fsync, lambda *_: None)
    traced("replace", os.replace, lambda *_: None)
    store.commit(append=[make_rows(3, first=30)], remove={0: [2]})

    root = str(store.path)
    renames = [i for i, event in enumerate(events) if event[0] == "replace"]
    targets = [os.path.relpath(events[i][2], root) for i in renames]
    assert targets == ["dead/000000-00000004.h5", "shards/000002.h5", "manifest.json"]
    for i in renames:
        source = events[i][1]
        last_write = max(j for j, e in enumerate(events) if e[0] == "pwrite" and e[1] == source)
        assert any(e[:2] == ("fsync", source) for e in events[last_write:i])
    for folder in ("dead", "shards"):
        assert ("fsync", f"{root}/{folder}") in [e[:2] for e in events[renames[1] : renames[2]]]
    assert ("fsync", root) in [e[:2] for e in events[: renames[0]]]
    assert ("fsync", root) in [e[:2] for e in events[renames[2] :]]


def test_atomic_write(tmp_path):
    path = tmp_path / "file"
    atomic_write(path, b"one")
    atomic_write(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(StoreError, match="No such file or directory"):
        atomic_write(tmp_path / "no/file", b"")


def test_replacing_a_directory(tmp_path):
    old, new = tmp_path / "index", tmp_path / "index.new"
    make_store(new)
    replace_directory(new, old)
    assert IndexStore.open(old, verify=True).ntotal == 10
    reader = IndexStore.open(old)
    IndexStore.create(new, settings={}, files={}).commit(
        append=[make_rows(5), make_rows(7, first=5)]
    )
    replace_directory(new, old)
    assert IndexStore.open(old, verify=True).ntotal == 12
    assert os.listdir(tmp_path) == ["index"]
    # The reader of the former index keeps what it has opened.
    assert reader.ntotal == 10
    assert_same_rows(reader.shards[0], make_rows(5))
    with pytest.raises(StoreError, match="another index is in this place now"):
        reader.refresh()


def test_replacing_loses_nothing_that_is_not_the_index(tmp_path):
    new = make_store(tmp_path / "new").path
    old = make_store(tmp_path / "old").path
    (old / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"holiday.jpg.*no part of the index"):
        replace_directory(new, old)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/holiday.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="neither an index nor an empty folder"):
        replace_directory(new, tmp_path / "photos")
    with pytest.raises(IndexNotFoundError):
        replace_directory(tmp_path / "photos", tmp_path / "elsewhere")
    (old / "holiday.jpg").unlink()
    with writer_lock(old), pytest.raises(IndexLockedError):
        replace_directory(new, old)
    replace_directory(new, old)
    assert sorted(os.listdir(tmp_path)) == ["old", "photos"]


def test_recovering_an_interrupted_replacement(tmp_path):
    old = make_store(tmp_path / "index").path
    os.rename(old, tmp_path / "index.old-hyperpq")
    assert IndexStore.open(old, verify=True).ntotal == 10
    shutil.copytree(old, tmp_path / "index.old-hyperpq")
    recover_directory(old)
    assert os.listdir(tmp_path) == ["index"]
    assert verify_directory(old) == []


def test_a_copy_without_empty_folders_works(tmp_path):
    IndexStore.create(tmp_path / "index", settings={}, files={})
    (tmp_path / "index/shards").rmdir()
    (tmp_path / "index/dead").rmdir()
    store = IndexStore.open(tmp_path / "index", verify=True)
    store.commit(append=[make_rows(2)])
    assert IndexStore.open(store.path, verify=True).ntotal == 2


EAST = timezone(timedelta(hours=2))


def two_stores(tmp_path):
    return MemoryStore(), IndexStore.create(tmp_path / "index", settings={}, files={})


def test_many_small_additions_stay_few_pieces(tmp_path):
    for store in two_stores(tmp_path):
        for i in range(100):
            store.append(make_rows(1, first=i), next_id=i + 1)
        # 100 = 64 + 32 + 4
        assert [piece.n for piece in store.pieces] == [64, 32, 4]
        assert [*contents(store)] == [*range(100)]
        assert store.next_id == 100
    names = sorted(path.name for path in (tmp_path / "index/shards").iterdir())
    assert names == ["000063.h5", "000095.h5", "000099.h5"]
    assert verify_directory(tmp_path / "index") == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_changes_in_memory_and_on_disk_are_those_of_a_dict(data, tmp_path_factory):
    stores = two_stores(tmp_path_factory.mktemp("store"))
    expected: dict[int, int] = {}
    for step in range(data.draw(st.integers(1, 12))):
        gone = data.draw(st.sets(st.sampled_from([*expected] or [0]), max_size=5))
        fresh = data.draw(st.sets(st.integers(0, 60), max_size=9)) - (expected.keys() - gone)
        expected = {i: v for i, v in expected.items() if i not in gone}
        expected |= dict.fromkeys(fresh, step)
        ids = np.array(sorted(fresh, reverse=True), np.int64)
        codes = np.full((len(ids), 2), step, np.uint8)
        rows = Rows(codes, ids, {"step": np.full(len(ids), step)}, [b"%d" % i for i in ids])
        for store in stores:
            removed = np.array(sorted(gone), np.int64)
            remove = {p: r[r >= 0] for p, r, _ in store.find(removed)}
            if data.draw(st.booleans()):
                store.append(rows, remove)
            else:
                store.commit(append=[rows] if rows.n else [], remove=remove)
            if data.draw(st.integers(0, 3)) == 0:
                store.compact()
                assert len(store.pieces) <= 1
                assert not store.compact()
            asked = np.array([*expected, 70, 71], np.int64)
            rows_of = dict.fromkeys(asked.tolist(), 0)
            for _, where, piece in store.find(asked):
                for i, row in zip(asked.tolist(), where.tolist(), strict=True):
                    if row >= 0:
                        assert piece.ids[row] == i
                        rows_of[i] += 1
            assert rows_of == dict.fromkeys(expected, 1) | {70: 0, 71: 0}
            assert store.ntotal == len(expected)
            found = {i: (code[0], path) for i, (code, path, _) in contents(store).items()}
            assert found == {i: (v, b"%d" % i) for i, v in expected.items()}
    assert stores[1].verify() == []


def test_compacting_drops_what_is_removed_and_leaves_readers_alone(tmp_path):
    store = make_store(tmp_path / "index")
    reader, expected = IndexStore.open(store.path), contents(store)
    assert store.compact()
    assert not store.compact()
    assert [shard.n for shard in store.shards] == [10]
    assert contents(store) == contents(reader) == expected
    assert reader.generation < store.generation
    names = [p.name for p in store.path.rglob("*.h5")]
    assert names == ["000002.h5"]
    assert reader.refresh()
    assert not reader.refresh()
    assert contents(reader) == expected
    reader.commit(remove={0: np.arange(10)})
    assert (reader.shards, reader.ntotal) == ([], 0)
    assert store.refresh()
    assert store.shards == []
    assert list(store.path.rglob("*.h5")) == []


def test_refreshing_takes_over_what_is_mapped(tmp_path):
    store = make_store(tmp_path / "index")
    reader = IndexStore.open(store.path)
    before = reader.shards[0]._bytes
    store.commit(append=[make_rows(4, first=90)], remove={0: [1]})
    assert reader.refresh()
    assert reader.shards[0]._bytes is before
    assert contents(reader) == contents(store)
    shards = reader.shards
    store.commit(append=[make_rows(4, first=95)])
    assert reader.refresh()
    assert reader.shards[:-1] == shards  # not even their removed rows are read again
    assert contents(reader) == contents(store)


def test_one_appended_piece_is_in_memory_at_a_time(tmp_path):
    made: list[weakref.ref] = []

    def pieces():
        for first in (0, 10, 20):
            assert all(rows() is None for rows in made)
            rows = make_rows(10, first=first)
            made.append(weakref.ref(rows))
            yield rows
            del rows

    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=pieces())
    assert store.ntotal == 30


def test_compaction_has_one_piece_in_memory_at_a_time(tmp_path, monkeypatch):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    store.commit(append=[make_rows(10, first=first) for first in (0, 10, 20)])
    store.commit(remove={0: [1], 1: [2], 2: [3]})
    monkeypatch.setattr(row_store, "_COMPACT", 9)
    made: list[weakref.ref] = []

    def take(shard, numbers, original=Shard.take):
        assert all(rows() is None for rows in made)
        rows = original(shard, numbers)
        made.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(Shard, "take", take)
    assert store.compact()
    assert [shard.n for shard in store.shards] == [9, 9, 9]
    assert len(made) == 3


def test_damage_is_located(tmp_path):
    store = IndexStore.create(tmp_path / "index", settings={}, files={})
    n = CHECKED // 8 + 1000
    store.commit(append=[Rows(np.zeros((n, 4), np.uint8), np.arange(n))])
    (shard,) = store.shards
    assert len(shard.entry.content.xxh3_128) == 2
    path = tmp_path / "index" / shard.entry.file
    with open(path, "r+b") as file:
        file.seek(CHECKED + 3)
        file.write(b"x")
    (problem,) = store.verify()
    assert problem.file == shard.entry.file
    inside = [n for n, p in sorted(shard.entry.columns.items()) if p.end > CHECKED]
    assert problem.what == (
        f"the checksum is wrong in 1 of 2 pieces of {CHECKED} bytes, first at byte {CHECKED}; "
        f"{', '.join('/' + name for name in inside)} lies there"
    )


def test_fast_durability_leaves_out_every_fsync(tmp_path, monkeypatch):
    store = make_store(tmp_path / "index")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    store.durability = "fast"
    store.commit(append=[make_rows(3, first=30)], remove={0: [2]})
    assert synced == []
    assert IndexStore.open(store.path, verify=True).ntotal == 12
    store.durability = "full"
    store.commit(next_id=99)
    assert synced


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2], "int64", [1, 2]),
        (np.array([1, 2], np.uint8), "int32", [1, 2]),
        (np.array([1, 2], np.uint32), "int64", [1, 2]),
        (np.array([1, 2], ">i4"), "int32", [1, 2]),
        ([True, False], "int32", [1, 0]),
        (np.array([1.5, 2], np.float16), "float32", [1.5, 2]),
        ([1.5, np.nan], "float64", [1.5, np.nan]),
        (["a", None], "category", ["a", None]),
        (np.array(["a", "b"]), "category", ["a", "b"]),
        (np.array(["2024-01-01", "NaT"], "M8[D]"), "time", None),
        ([datetime(2024, 1, 1, tzinfo=EAST), datetime(2024, 1, 1)], "time", None),
    ],
)
def test_columns_that_users_pass(values, kind, expected):
    column = as_column("x", values, 2)
    assert kind_of(column) == kind
    if kind == "category":
        assert column.strings() == expected
    elif expected is not None:
        np.testing.assert_array_equal(column, expected)
    else:
        zoned = isinstance(values, list)
        first = "2023-12-31T22" if zoned else "2024-01-01"
        second = "2024-01-01" if zoned else "NaT"
        np.testing.assert_array_equal(column, np.array([first, second], "M8[ns]"))


@pytest.mark.parametrize(
    ("values", "kind", "fits"),
    [
        (np.array([1, -5], np.int64), "int32", True),
        (np.array([1, 2**31], np.int64), "int32", False),
        (np.array([1, 2**53 + 1], np.int64), "float64", False),
        (np.array([1, 2**53], np.int64), "float64", True),
        (np.array([1.5, np.nan]), "float32", True),
        (np.array([1.1, 2.0]), "float32", False),
        (np.array([1.5, 2.0]), "int64", False),
        (np.array([1.0, 2.0]), "int64", True),
        (np.array([np.nan, 2.0]), "int64", False),
        (np.array([1, 2]), "time", False),
        (Categories.from_strings(["a", "b"]), "int64", False),
        (np.array([1, 2]), "category", False),
    ],
)
def test_a_column_becomes_of_the_kind_that_is_there(values, kind, fits):
    if not fits:
        with pytest.raises(InvalidInputError, match=f"attribute x has .* values; expected {kind}"):
            conform("x", values, kind)
        return
    out = conform("x", values, kind)
    assert kind_of(out) == kind
    np.testing.assert_array_equal(out, values)


def test_rows_with_other_columns_are_refused(tmp_path):
    for store in two_stores(tmp_path):
        store.append(make_rows(3))
        with pytest.raises(InvalidInputError, match="attributes are float64, int32; expected"):
            store.append(make_rows(3, first=10, paths=False))
        assert store.ntotal == 3
