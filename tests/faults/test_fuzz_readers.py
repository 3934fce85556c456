"""The readers of files from strangers, fuzzed: what they return is checked, and all else refused.

``HYPERPQ_FUZZ_SECONDS`` is how long the slow variants search, each of them.
"""

from __future__ import annotations

import io
import json
import os
import struct
import time
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from fault_tools import add, in_child, learned_codec, new_index
from forgeries import HOSTILE, spots
from hypothesis import example, given, seed, settings
from hypothesis import strategies as st
from store_tools import canonical, forged

from hyperpq.codec.serialization import SETTINGS_FILE, WEIGHTS_FILE, from_files, to_files
from hyperpq.errors import CorruptIndexError, FormatVersionError, InvalidInputError
from hyperpq.store.columns import Categories
from hyperpq.store.hdf5_layout import structure_problem
from hyperpq.store.manifest_parser import parse_manifest
from hyperpq.store.shard import Shard
from hyperpq.store.tombstones import parse_tombstones

PLACE = Path("an-index/manifest.json")
REFUSED = (CorruptIndexError, FormatVersionError)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The files of an index, by their path in it."""
    root = tmp_path_factory.mktemp("fuzz") / "index"
    index = new_index()
    index.save(root)
    add(index, range(70))
    add(index, range(100, 130))
    index.remove_ids([5, 6, 110])
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".lock")
    }


NUMBERS = st.integers(-(2**66), 2**66) | st.integers(-2, 600)
VALUES = st.sampled_from(HOSTILE) | st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@st.composite
def edited(draw, text: bytes):
    """A JSON value that one or a few changes make of ``text``."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        found = spots(content)
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(("value", "shift", "copy", "remove"))):
            case "value":
                container[key] = deepcopy(draw(VALUES))
            case "shift" if type(container[key]) is int:
                container[key] += draw(st.integers(-70, 70))
            case "copy":
                other, name = found[draw(st.integers(0, len(found) - 1))]
                container[key] = deepcopy(other[name])
            case _:
                del container[key]
    return content


@st.composite
def overwritten(draw, data: bytes):
    """Bytes with a few others in some places, of the same length."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.binary(min_size=1, max_size=8) | st.sampled_from((b"\xff" * 8, bytes(8))))
        # Hypothesis likes small numbers, and headers are in front.
        start = draw(st.integers(0, len(data) - 1) | st.integers(0, min(len(data) - 1, 2000)))
        out[start : start + len(block)] = block[: len(data) - start]
    return bytes(out)


def parsed(data: bytes):
    """The manifest in ``data``, or None where it is refused."""
    try:
        manifest = parse_manifest(data, PLACE)
    except REFUSED as error:
        assert str(error).startswith(f"{PLACE}: ")
        assert len(str(error)) < 2000
        return None
    # One text for one content: what is accepted is what would be written.
    assert manifest.to_bytes() == data
    return manifest


def fuzz_manifest(files):
    @given(st.data(), st.binary(max_size=200))
    @example(None, b"[" * 100_000)
    def check(data, noise):
        assert parsed(noise) is None
        if data is None:
            return
        text = files["manifest.json"]
        assert parsed(data.draw(overwritten(text))) in (None, parse_manifest(text, PLACE))
        content = data.draw(edited(text))
        if isinstance(content, dict):
            parsed(forged(content))

    return check


def read_shard(shard) -> None:
    """Everything that a shard holds; each column may be refused."""
    columns = [shard.ids, shard.tiled.rows()]
    calls = [lambda: shard.paths, lambda: shard.find(np.arange(-2, 200))]
    calls += [lambda name=name: shard.attribute(name) for name in shard.attribute_names]
    calls += [lambda: shard.take(np.arange(shard.n))]
    for call in calls:
        try:
            columns.append(call())
        # Ids that occur twice are found when rows are put together.
        except (CorruptIndexError, InvalidInputError):
            continue
    for column in columns:
        if isinstance(column, Categories):
            assert len(column.strings()) == shard.n
        elif isinstance(column, np.ndarray):
            assert column.tobytes() is not None


def fuzz_shards(files):
    """Other content under a right checksum, and a manifest that says other things of it."""

    @given(st.data())
    def check(data):
        content = json.loads(files["manifest.json"])
        number = data.draw(st.integers(0, len(content["shards"]) - 1))
        name = content["shards"][number]["file"]
        shard = content["shards"][number]
        if data.draw(st.booleans()):
            shard["columns"] = data.draw(edited(canonical(shard["columns"])))
        elif data.draw(st.booleans()):
            content["shards"][number] = data.draw(edited(canonical(shard)))
        manifest = parsed(forged(content))
        if manifest is None:
            return
        entry = manifest.shards[number]
        held = data.draw(overwritten(files[name]))
        # That the length is another is found before anything is read.
        if entry.content.size != len(held):
            return
        assert isinstance(structure_problem(io.BytesIO(held), entry.columns), (str, type(None)))
        tombstones = entry.tombstones
        if tombstones and tombstones.content.size == len(files[tombstones.file]):
            forged_rows = data.draw(overwritten(files[tombstones.file]))
            with suppress(CorruptIndexError):
                parse_tombstones(PLACE.parent, entry, forged_rows)
            structure_problem(io.BytesIO(forged_rows), tombstones.columns)
        none = np.empty(0, np.int64)
        read_shard(Shard(PLACE.parent, entry, none, np.frombuffer(held, np.uint8)))

    return check


def with_header(data: bytes, draw) -> bytes:
    """Safetensors with another header."""
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(draw(edited(data[8 : 8 + size]))).encode()
    length = draw(st.just(len(text)) | NUMBERS.map(abs)) % 2**64
    return struct.pack("<Q", length) + text + data[8 + size :]


def fuzz_codec(files):
    originals = [{name: files[name] for name in (SETTINGS_FILE, WEIGHTS_FILE)}]
    originals.append(to_files(learned_codec()))

    @given(st.data(), st.sampled_from(originals))
    def check(data, original):
        altered = dict(original)
        match data.draw(st.sampled_from(("settings", "header", "weights", "noise"))):
            case "settings":
                altered[SETTINGS_FILE] = json.dumps(
                    data.draw(edited(original[SETTINGS_FILE]))
                ).encode()
            case "header":
                altered[WEIGHTS_FILE] = with_header(original[WEIGHTS_FILE], data.draw)
            case "weights":
                altered[WEIGHTS_FILE] = data.draw(overwritten(original[WEIGHTS_FILE]))
            case _:
                name = data.draw(st.sampled_from(sorted(altered)))
                altered[name] = data.draw(st.binary(max_size=100))
        try:
            codec = from_files(altered)
        except REFUSED as error:
            assert "codec." in str(error)
            return
        x = np.zeros((3, codec.d), np.float32)
        codes = codec.encode(x)
        assert codes.shape == (3, codec.code_size)
        assert codec.tables(x).shape[:2] == (3, codec.M)
        assert codec.decode(codes).shape == codec.embed(x).shape

    return check


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5000, b"{}", b"1"])
def test_texts_that_are_no_settings(files, text):
    with pytest.raises(CorruptIndexError, match=r"^codec.json does not hold the settings of "):
        from_files({SETTINGS_FILE: text, WEIGHTS_FILE: files[WEIGHTS_FILE]})


FUZZERS = {"manifest": fuzz_manifest, "shards": fuzz_shards, "codec": fuzz_codec}


@pytest.mark.parametrize("name", FUZZERS)
def test_fuzzed_readers(files, name):
    check = FUZZERS[name](files)

    # In a child: a crash of a library is then a failure of this test, not the end of all.
    assert in_child(settings(max_examples=150)(check)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZERS)
def test_fuzzed_readers_for_long(files, capsys, tmp_path, name):
    seconds = float(os.environ.get("HYPERPQ_FUZZ_SECONDS", "10"))
    rounds = tmp_path / "rounds"

    def child():
        end, number = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            check = settings(max_examples=500, database=None)(FUZZERS[name](files))
            seed(time.time_ns())(check)()
            number += 1
            rounds.write_text(str(number))

    assert in_child(child) == 0
    with capsys.disabled():
        count = 500 * int(rounds.read_text())
        print(f"\nfuzzed for {seconds:.0f} s: {name}, {count} examples or fewer, no other error")
