"""The manifest: stored names, versions, and what is refused."""

from __future__ import annotations

import json

import pytest
from store_tools import make_rows, make_store, rewrite_manifest

from hyperpq.errors import CorruptIndexError, FormatVersionError
from hyperpq.store import IndexStore
from hyperpq.store.manifest_parser import is_current, read_manifest


@pytest.mark.parametrize(
    ("version", "advice"), [(7, "install a later hyperpq"), (1, "build the index again")]
)
def test_another_format_is_refused_by_name(tmp_path, version, advice):
    make_store(tmp_path / "index")
    rewrite_manifest(tmp_path / "index", lambda m: m.update(version=version))
    message = rf"format version {version}; .* reads versions 3 to 6; {advice}"
    with pytest.raises(FormatVersionError, match=message):
        IndexStore.open(tmp_path / "index")


def test_stored_names_stay(tmp_path):
    """The names of the first release, which `hyperpq.store.manifest` maps to those of the code."""
    store = make_store(tmp_path / "index")
    content = json.loads((store.path / "manifest.json").read_text())
    names = {"format", "version", "generation", "settings", "next_id", "next_shard"}
    assert content.keys() == names | {"files", "shards", "checksum"}
    assert content["generation"] == store.snapshot_number == 3
    assert sorted(content["files"]["codec.safetensors"]) == ["bytes", "xxh3_128"]
    shard = content["shards"][1]
    names = {"file", "rows", "code_size", "columns", "ids", "dead", "bytes", "xxh3_128"}
    assert shard.keys() == names
    assert (content["shards"][0]["dead"], shard["file"]) == (None, "shards/000001.h5")
    assert sorted(shard["dead"]) == sorted(["file", "rows", "offset", "bytes", "xxh3_128"])
    assert shard["dead"]["file"] == "dead/000001-00000003.h5"
    assert (shard["rows"], shard["dead"]["rows"], shard["ids"]) == (7, 2, [5, 11])
    assert sorted(shard["columns"]["codes"]) == ["dtype", "offset", "shape"]


def test_what_is_read_is_what_was_written(tmp_path):
    store = make_store(tmp_path / "index")
    data = (store.path / "manifest.json").read_bytes()
    manifest = read_manifest(store.path)
    assert manifest.to_bytes() == data
    assert manifest.fingerprint() == store.fingerprint()
    assert is_current(store.path, manifest)
    store.commit(next_id=40)
    assert not is_current(store.path, manifest)


def test_features_make_version_4_and_their_absence_version_3(tmp_path):
    store = make_store(tmp_path / "index")

    def version():
        return json.loads((store.path / "manifest.json").read_text())["version"]

    # Adding, deleting and compacting without features is what it was.
    store.append(make_rows(1, first=50))
    store.compact()
    assert version() == 3
    store.commit(drop=[0], append=[make_rows(5, feature_size=7)])
    assert version() == 4
    content = json.loads((store.path / "manifest.json").read_text())
    assert content["former"] == []
    (column,) = [c for name, c in content["shards"][0]["columns"].items() if name == "features"]
    assert (column["dtype"], column["shape"]) == ("uint8", [5, 7])
    assert read_manifest(store.path).to_bytes() == (store.path / "manifest.json").read_bytes()
    store.append(make_rows(3, first=5, feature_size=7))
    store.commit(delete={0: [1]})
    assert store.compact()
    assert version() == 4
    assert IndexStore.open(store.path, verify=True).feature_size == 7
    store.commit(drop=[0])
    assert version() == 3
    content = json.loads((store.path / "manifest.json").read_text())
    assert "former" not in content


def _features(manifest: dict, number: int = 0) -> dict:
    return manifest["shards"][number]["columns"]["features"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=3), "manifest is no object with the keys"),
        (lambda m: (m.update(version=3), m.pop("former")), "version is 3; .* is version 4"),
        (lambda m: m.pop("former"), "manifest is no object with the keys .*, former"),
        (lambda m: m.update(former=["0" * 31]), "does not match"),
        (lambda m: m.update(former=["0" * 32] * 2), "former has a checksum twice"),
        (lambda m: m.update(former=[f"{i:032x}" for i in range(65)]), "former is no list of at mo"),
        (lambda m: m.update(former="0"), "former is no list of at most 64 checksums"),
        (lambda m: _features(m).update(shape=[5, 6]), "shards differ in the size of their feat"),
        (lambda m: m["shards"][1]["columns"].pop("features"), "shards differ in the size of thei"),
        (lambda m: [s["columns"].pop("features") for s in m["shards"]], "version is 4; .* is ver"),
        (lambda m: _features(m).update(shape=[5, 0]), "is no column of a shard of 5 rows"),
        (lambda m: _features(m).update(shape=[4, 7]), "is no column of a shard of 5 rows"),
        (lambda m: _features(m).update(shape=[35]), "is no column of a shard of 5 rows"),
        (lambda m: _features(m).update(shape=[5, 2**24 + 1]), "is no column of a shard of 5 rows"),
        (lambda m: _features(m).update(dtype="float32"), "is no column of a shard of 5 rows"),
        (lambda m: _features(m).update(shape=[5, 2**24]), "lies outside the file"),
    ],
)
def test_errors_of_features_name_the_field(tmp_path, change, message):
    make_store(tmp_path / "index", feature_size=7)
    rewrite_manifest(tmp_path / "index", change)
    with pytest.raises(CorruptIndexError, match=message):
        IndexStore.open(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(extra=1), "manifest is no object with the keys format, version"),
        (lambda m: m["shards"][0].update(rows=-1), "rows is -1; expected an integer from 0 to"),
        (lambda m: m["shards"].append(m["shards"][0]), "a shard is named twice"),
        (lambda m: m.update(generation=2), "dead/.* has the number of a later snapshot"),
        (lambda m: m["files"].update({"../x": None}), "'../x', which is no file name of an index"),
    ],
)
def test_errors_name_the_field(tmp_path, change, message):
    make_store(tmp_path / "index")
    rewrite_manifest(tmp_path / "index", change)
    match = rf"manifest.json: .*{message}.*; the file is torn or altered, so restore it"
    with pytest.raises(CorruptIndexError, match=match):
        IndexStore.open(tmp_path / "index")
