"""Indexes that keep the features of their vectors: every call that stores, reads or copies rows."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from index_tools import Unchanged

from hyperpq import HiHPQIndex, deserialize_index, read_index, serialize_index, write_index
from hyperpq.codec import FeatureCodec, PQCodec
from hyperpq.errors import CorruptIndexError, InvalidInputError, TrainingError, UnknownIdError
from hyperpq.index import Collection
from hyperpq.index.training_record import TrainingRecord
from hyperpq.store.manifest_parser import read_manifest

RNG = np.random.default_rng(4)
WORDS = RNG.normal(size=(3, 256, 4)).astype(np.float32)
X, NEW = RNG.normal(size=(2, 300, 12)).astype(np.float32)
QUERIES = RNG.normal(size=(5, 12)).astype(np.float32)
KINDS = ["int8", "float16", "float32"]


def kept(x, kind="int8"):
    codec = FeatureCodec(kind, x.shape[1])
    return codec.decode(codec.encode(x))


def new_index(kind="int8", seed=None):
    words = WORDS if seed is None else np.random.default_rng(seed).normal(size=WORDS.shape)
    codec = PQCodec.from_codebooks(words.astype(np.float32))
    return HiHPQIndex.from_codec(codec, device="cpu", features=kind)


@pytest.fixture(params=["memory", "disk"])
def index(request, tmp_path):
    made = new_index()
    if request.param == "disk":
        made.save(tmp_path / "index")
        made = HiHPQIndex.load(tmp_path / "index", device="cpu", durability="fast")
    made.add(X, attributes={"row": np.arange(len(X))})
    return made


def assert_whole(index, kind="int8"):
    """Every code is that of the features that are kept beside it."""
    ids = index.ids
    features = index.features_of(ids)
    np.testing.assert_array_equal(index.codes_of(ids), index.encode(features))
    assert index.has_features
    assert index.collection.feature_codec == FeatureCodec(kind, 12)


@pytest.mark.parametrize("kind", KINDS)
def test_features_come_back_as_they_are_kept(kind, tmp_path):
    index = new_index(kind)
    index.add(X[:200])
    index.save(tmp_path / "i")
    index.add(X[200:], np.arange(1000, 1100))
    for one in (index, read_index(tmp_path / "i", device="cpu")):
        np.testing.assert_array_equal(one.features_of(one.ids), kept(X, kind))
        np.testing.assert_array_equal(one.features_of([1003, 5, 5]), kept(X, kind)[[203, 5, 5]])
        assert_whole(one, kind)
    assert f"features='{kind}'" in repr(index)


def test_an_index_without_features_has_none(tmp_path):
    index = new_index("none")
    index.add(X)
    assert not index.has_features
    assert index.training is None
    with pytest.raises(InvalidInputError, match="keeps no features; expected one that does"):
        index.features_of([0])
    index.save(tmp_path / "i")
    settings = json.loads((tmp_path / "i/manifest.json").read_bytes())
    assert settings["version"] == 3
    assert not {"features", "training"} & settings["settings"].keys()
    again = HiHPQIndex.load(tmp_path / "i", device="cpu")
    again.add(NEW)
    assert not again.has_features
    assert again.stats().feature_bytes == 0


def test_changes_keep_the_features_of_each_row(index):
    index.update(NEW[:3], [7, 2, 5], attributes={"row": [70, 20, 50]})
    index.remove_ids([0, 1, 299])
    index.add(NEW[10:20], [1, *range(500, 509)], attributes={"row": np.arange(10)})
    index.compact()
    want = {id: kept(X)[id] for id in range(300)}
    want |= dict(zip([7, 2, 5, 1, *range(500, 509)], kept(NEW)[[0, 1, 2, *range(10, 20)]]))  # noqa: B905
    del want[0], want[299]
    assert index.ids.tolist() == sorted(want)
    np.testing.assert_array_equal(index.features_of(list(want)), list(want.values()))
    assert_whole(index)
    with pytest.raises(UnknownIdError, match="id is 299"):
        index.features_of([5, 299])
    index.reset()
    index.add(X[:2], attributes={"row": [0, 1]})
    np.testing.assert_array_equal(index.features_of([1]), kept(X[1:2]))


def test_a_search_does_not_depend_on_them(index):
    plain = new_index("none")
    plain.add(kept(X))
    for one, other in zip(index.search(QUERIES, 9), plain.search(QUERIES, 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_their_bytes_are_counted(index):
    stats = index.stats()
    assert stats.feature_bytes == 300 * (12 + 4)
    assert index.nbytes == stats.nbytes > stats.feature_bytes


def test_copies_have_them(index, tmp_path):
    write_index(index, tmp_path / "copy")
    copies = [
        copy.copy(index),
        copy.deepcopy(index),
        index.clone(),
        pickle.loads(pickle.dumps(index)),
        deserialize_index(serialize_index(index), device="cpu"),
        read_index(tmp_path / "copy", device="cpu"),
    ]
    for other in copies:
        np.testing.assert_array_equal(other.features_of([4, 3]), kept(X)[[4, 3]])
        assert_whole(other)
    for view in (index.collection.view(), pickle.loads(pickle.dumps(index.collection.view()))):
        np.testing.assert_array_equal(view.features_of([4]), kept(X)[[4]])
    again = pickle.loads(pickle.dumps(index.collection))
    np.testing.assert_array_equal(again.view().features_of([4]), kept(X)[[4]])


def test_codes_alone_are_refused(index):
    codes = index.encode(NEW[:2])
    for change in (
        lambda: index.add_sa_codes(codes),
        lambda: index.collection.add(codes, attributes={"row": [0, 1]}),
        lambda: index.collection.update([3, 4], codes),
    ):
        with Unchanged(index, InvalidInputError, r"features.*; expected vectors; call add\(x\)"):
            change()
    wrong = np.zeros((2, 15), np.uint8)
    with Unchanged(index, InvalidInputError, r"expected uint8 of shape \(2, 16\)"):
        index.collection.add(codes, attributes={"row": [0, 1]}, features=wrong)
    plain = new_index("none")
    with pytest.raises(InvalidInputError, match="for an index that keeps none"):
        plain.collection.add(codes, features=np.zeros((2, 16), np.uint8))


def test_features_can_be_given_with_codes(index):
    codec = index.collection.feature_codec
    features = codec.encode(NEW[:2])
    codes = index.encode(codec.decode(features))
    index.collection.add(codes, attributes={"row": [0, 1]}, features=features)
    np.testing.assert_array_equal(index.features_of([300, 301]), kept(NEW[:2]))
    index.collection.update([3, 2], codes, features=features)
    np.testing.assert_array_equal(index.features_of([3, 2]), kept(NEW[:2]))
    features[:] = 0
    codes[:] = 0
    assert_whole(index)


def test_vectors_that_cannot_be_kept_are_refused():
    index = new_index("float16")
    with Unchanged(index, InvalidInputError, "too large for features"):
        index.add(np.full((1, 12), 1e5, np.float32))


# --- merging, and codes of another length -----------------------------------------------------


def test_indexes_with_features_are_merged(index):
    other = new_index()
    other.add(NEW, attributes={"row": np.arange(300)})
    index.merge_from(other, 300)
    want = np.concatenate([kept(X[299:]), kept(NEW[:1])])
    np.testing.assert_array_equal(index.features_of([299, 300]), want)
    assert_whole(index)


def test_an_index_of_another_codec_is_merged_by_its_features(index):
    other = new_index("float32", seed=9)
    other.add(NEW, attributes={"row": np.arange(300)})
    index.merge_from(other.view(), 300)
    np.testing.assert_array_equal(index.features_of([300]), kept(NEW[:1]))
    assert_whole(index)
    # An index without features takes what is encoded anew, too.
    plain = new_index("none")
    plain.merge_from(other)
    np.testing.assert_array_equal(plain.codes_of(plain.ids), plain.encode(NEW))
    assert not plain.has_features


def test_an_index_without_features_cannot_be_merged_into_one_with_them(index):
    other = new_index("none")
    other.add(NEW, attributes={"row": np.arange(300)})
    with Unchanged(index, InvalidInputError, "other keeps no features; expected features"):
        index.merge_from(other, 300)
    apart = new_index("none", seed=9)
    with Unchanged(index, InvalidInputError, "learned apart; expected the same codec"):
        index.merge_from(apart, 300)


@pytest.fixture(scope="module")
def learned():
    index = HiHPQIndex(12, 3, device="cpu", features="int8")
    index.train(X, epochs=0, width=24)
    index.add(X, attributes={"row": np.arange(len(X))})
    index.remove_ids([0, 299])
    index.metadata = {"made": "here"}
    return index


def test_rows_are_taken_along_to_codes_of_another_length(learned):
    other = learned.with_bits(16, nbits=4, rows=True)
    assert (other.M, other.nbits, other.next_id, other.metadata) == (4, 4, 300, {"made": "here"})
    assert other.ids.tolist() == learned.ids.tolist()
    np.testing.assert_array_equal(other.features_of([5]), learned.features_of([5]))
    assert other.attributes_of([7])["row"].tolist() == [7]
    assert_whole(other)
    empty = learned.with_bits(16, features="none")
    assert (empty.ntotal, empty.has_features) == (0, False)
    plain = learned.with_bits(16, rows=True, features="none")
    codes = plain.encode(learned.features_of(plain.ids))
    np.testing.assert_array_equal(plain.codes_of(plain.ids), codes)
    exact = learned.with_bits(16, rows=True, features="float32")
    np.testing.assert_array_equal(exact.features_of([5]), learned.features_of([5]))


def test_rows_without_features_are_not_taken_along(learned):
    plain = learned.with_bits(24, features="none")
    with pytest.raises(InvalidInputError, match="keeps no features"):
        plain.with_bits(16, rows=True)


# --- what is recorded -------------------------------------------------------------------------


def test_the_training_is_recorded(learned, tmp_path):
    record = learned.training
    assert (record.n, record.objective, record.learned) == (300, "semantic", False)
    write_index(learned, tmp_path / "i")
    for other in (read_index(tmp_path / "i", device="cpu"), learned.clone(), learned.view()):
        assert other.training == record
    data = serialize_index(learned)
    assert deserialize_index(data, device="cpu").training == record


def test_an_index_with_features_cannot_be_trained_by_train(learned):
    with pytest.raises(TrainingError, match=r"298 vectors .*; call retrain\(\)\."):
        learned.train(X)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features", "int4", "features in manifest.json are 'int4'"),
        ("features", "float32", "features of another size than 48 bytes"),
        ("training", 3, "training in manifest.json is not the record"),
        ("training", {"vectors": -1}, "training in manifest.json is not the record"),
    ],
)
def test_settings_that_do_not_fit_are_refused(learned, tmp_path, name, value, message):
    write_index(learned, tmp_path / "i")
    place = tmp_path / "i/manifest.json"
    manifest = read_manifest(tmp_path / "i")
    manifest.settings[name] = value
    place.write_bytes(manifest.to_bytes())
    with pytest.raises(CorruptIndexError, match=message):
        HiHPQIndex.load(tmp_path / "i", device="cpu")


@pytest.mark.parametrize("change", [{"vectors": 0}, {"vectors": 10**400}, {"learned": 1}])
def test_a_forged_record_of_a_training_is_refused(learned, change):
    record = learned.training.to_json()
    assert TrainingRecord.from_json(record, "here") == learned.training
    with pytest.raises(CorruptIndexError, match="here: training in manifest"):
        TrainingRecord.from_json(record | change, "here")


def test_an_index_of_format_3_keeps_none(tmp_path):
    source = Path(__file__).parents[1] / "data/format-3"
    shutil.copytree(source, tmp_path / "i")
    place = next(tmp_path.joinpath("i").rglob("manifest.json")).parent
    index = HiHPQIndex.load(place, device="cpu")
    assert (index.has_features, index.training) == (False, None)
    before = index.ntotal
    first = index.ids[:1]
    index.collection.add(
        index.codes_of(first),
        attributes=index.attributes_of(first),
        paths=index.paths_of(first) if "path" in index.collection._store.schema else None,
    )
    assert HiHPQIndex.load(place, device="cpu").ntotal == before + 1
    assert json.loads((place / "manifest.json").read_bytes())["version"] == 3


@pytest.mark.parametrize("features", ["yes", None, 8])
def test_an_unknown_kind_is_refused(features):
    with pytest.raises(InvalidInputError, match=r"features is .*; expected 'none', 'int8'"):
        HiHPQIndex(12, features=features, device="cpu")


def test_a_collection_of_rows_alone_keeps_them():
    codec = FeatureCodec("int8", 2)
    rows = Collection(3, features=codec)
    features = codec.encode([[1, 2], [3, 4]])
    rows.add(np.zeros((2, 3), np.uint8), features=features)
    np.testing.assert_array_equal(rows.view().features_of([1]), codec.decode(features)[[1]])
    assert rows.view().codec is None
