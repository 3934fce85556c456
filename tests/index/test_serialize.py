"""`serialize_index` and `deserialize_index`: the same index, whole bytes only, hostile bytes."""

from __future__ import annotations

import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_tools import QUERIES, X, assert_same

from hyperpq import HiHPQIndex, HyperPQError, deserialize_index, serialize_index, write_index
from hyperpq.errors import InvalidInputError, NotTrainedError, StoreError


def table_of(data):
    """Names and lengths of the files, and the files."""
    size = int.from_bytes(data[8:16], "little")
    position, files = 16 + size, {}
    for name, length in json.loads(data[16 : 16 + size]):
        files[name] = data[position : position + length]
        position += length
    return files


def packed(files, table=None):
    entries = [[name, len(data)] for name, data in files.items()] if table is None else table
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return b"HPQINDEX" + len(text).to_bytes(8, "little") + text + b"".join(files.values())


@pytest.fixture(scope="module")
def data(codecs):
    """A small index with everything that an index can have."""
    index = HiHPQIndex.from_codec(next(iter(codecs.values())), device="cpu")
    index.collection.add(
        index.encode(X[:50]),
        attributes={"number": np.arange(50), "word": ["a", "b"] * 25},
        paths=[b"/%d" % i for i in range(50)],
    )
    index.metadata = {"made": "here"}
    return serialize_index(index)


def test_there_and_back(filled, tmp_path):
    filled.metadata = {"made": "here"}
    filled.remove_ids([1, 2])
    data = serialize_index(filled)
    assert isinstance(data, bytes)
    for given_data in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        again = deserialize_index(given_data, device="cpu")
        assert (again.path, again.read_only, again.next_id) == (None, False, 300)
        assert again.metadata == {"made": "here"}
        assert again.ids.tolist() == filled.ids.tolist()
        assert_same(again.search(QUERIES, 20), filled.search(QUERIES, 20))
    again.add(X[:1])
    assert again.ntotal == 299
    # The bytes are those of the files that write_index writes.
    write_index(filled, tmp_path / "copy")
    for name, content in table_of(data).items():
        assert (tmp_path / "copy" / name).read_bytes() == content
    assert serialize_index(deserialize_index(data, device="cpu")) == data


def test_attributes_and_paths_are_kept(data):
    again = deserialize_index(data, device="cpu")
    assert again.select(where="word == 'b' and number < 6").tolist() == [1, 3, 5]
    assert again.collection.view().paths_of([49]) == [b"/49"]
    assert again.metadata == {"made": "here"}


def test_an_empty_index_and_an_untrained_one(make):
    again = deserialize_index(serialize_index(make()), device="cpu")
    assert (again.ntotal, again.is_trained) == (0, True)
    with pytest.raises(NotTrainedError):
        serialize_index(HiHPQIndex(12, 3, device="cpu"))


def test_nothing_is_left_in_the_temporary_directory(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    index = deserialize_index(data, device="cpu")
    serialize_index(index)
    with pytest.raises(InvalidInputError):
        deserialize_index(data[:-1])
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    for call in (lambda: serialize_index(index), lambda: deserialize_index(data)):
        with pytest.raises(StoreError, match="use the temporary directory"):
            call()


@pytest.mark.parametrize("wrong", [None, 5, "text", [1, 2], np.zeros(2, "M8[s]")], ids=str)
def test_what_is_not_bytes(wrong):
    with pytest.raises(InvalidInputError, match=r"data is of .*expected what serialize_index"):
        deserialize_index(wrong)


def forged(files, **changes):
    return packed({**files, **changes})


HOSTILE = {
    "nothing": lambda f: b"",
    "another magic": lambda f: b"PK\x03\x04" + bytes(100),
    "only the beginning": lambda f: b"HPQINDEX",
    "a huge table": lambda f: b"HPQINDEX" + b"\xff" * 8 + b"[]",
    "no JSON": lambda f: packed(f, b"\xff{"),
    "nested JSON": lambda f: packed(f, b"[" * 100_000),
    "a number": lambda f: packed(f, 5),
    "an object": lambda f: packed(f, {"a": 1}),
    "a name alone": lambda f: packed(f, ["manifest.json"]),
    "no files": lambda f: packed({}),
    "a negative length": lambda f: packed(f, [["manifest.json", -5]]),
    "a true length": lambda f: packed(f, [["manifest.json", True]]),
    "a fraction": lambda f: packed(f, [["manifest.json", 5.0]]),
    "an absurd length": lambda f: packed(f, [["manifest.json", 2**62]]),
    "a file twice": lambda f: packed(f, [["manifest.json", 5], ["manifest.json", 5]]),
    "bytes at the end": lambda f: packed(f) + b"x",
    "an outer name": lambda f: forged(f, **{"../../outside": b"x"}),
    "an absolute name": lambda f: forged(f, **{"/tmp/outside": b"x"}),
    "another folder": lambda f: forged(f, **{"shards/../outside": b"x"}),
    "a hidden name": lambda f: forged(f, **{".lock": b"x"}),
    "an empty name": lambda f: forged(f, **{"": b"x"}),
    "a zero byte": lambda f: forged(f, **{"a\0b": b"x"}),
    "a file more": lambda f: forged(f, more=b"x"),
    "a file in a file": lambda f: forged(f, **{"codec.json/a": b"x"}),
    "a file less": lambda f: packed({n: c for n, c in f.items() if n != "codec.json"}),
    "no manifest": lambda f: packed({n: c for n, c in f.items() if n != "manifest.json"}),
    "an altered shard": lambda f: forged(
        f, **{"shards/000000.h5": f["shards/000000.h5"][:-1] + b"\x01"}
    ),
    "an altered codec": lambda f: forged(f, **{"codec.json": f["codec.json"][:-1] + b" "}),
    "an altered manifest": lambda f: forged(
        f, **{"manifest.json": f["manifest.json"].replace(b'"next_id":50', b'"next_id":51')}
    ),
    "a later format": lambda f: forged(
        f, **{"manifest.json": f["manifest.json"].replace(b'"version":3', b'"version":9')}
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_are_one_clear_error(kind, data, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    forged_data = HOSTILE[kind](table_of(data))
    assert forged_data != data
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=r"data") as caught:
            deserialize_index(forged_data, device="cpu")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) not in message
    assert peak < 30e6
    assert os.listdir(tmp_path) == []
    assert not os.path.lexists("/tmp/outside")


@given(
    cut=st.integers(0, 10**6),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=3),
)
def test_mutated_bytes_never_give_another_index(cut, flips, data):
    mutated = bytearray(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    for position, bits in flips:
        if mutated:
            mutated[position % len(mutated)] ^= bits
    if mutated == data:
        return
    with pytest.raises(HyperPQError):
        deserialize_index(bytes(mutated), device="cpu")
