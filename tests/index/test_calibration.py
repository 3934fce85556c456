"""Calibration: the scale of similarities, which is always that of the rows that are shown."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_tools import D_IN, SMALL, make_x

from hyperpq import HiHPQIndex
from hyperpq.codec import FeatureCodec
from hyperpq.index import Calibration, RowView, calibration

X = make_x(300)
KINDS = ["none", "int8", "float32"]


@pytest.fixture(scope="module")
def codec():
    index = HiHPQIndex(D_IN, 4, device="cpu")
    index.train(X, recipe=SMALL)
    return index.codec


@pytest.fixture
def make(codec):
    """Make an index with a trained codec and some rows."""

    def build(x=X, features="int8"):
        index = HiHPQIndex.from_codec(codec, device="cpu", features=features)
        index.add(x)
        return index

    return build


def is_of_its_rows(index, folder):
    """Whether an index has the scale that another process would find."""
    copy.copy(index).save(folder, overwrite=True)
    return index.calibration == HiHPQIndex.load(folder, device="cpu", read_only=True).calibration


numbers = st.floats(-1000, 1000, width=32)


@given(
    random=numbers,
    has_features=st.booleans(),
    D=st.lists(st.floats(-10_000, 10_000, width=32), min_size=1, max_size=20),
    d_self=numbers,
    kinship=st.floats(0, 1),
)
def test_the_scale_falls_with_the_distance(random, has_features, D, d_self, kinship):
    scale = Calibration(random, *(0.1, 0.9) if has_features else (None, None), 100)
    distances = np.sort(np.array(D, np.float32))[None]
    S = scale.similarity(distances, [d_self], [kinship])[0]
    assert ((S >= 0) & (S <= 100)).all()
    assert (np.diff(S) <= 0).all()
    is_own = distances[0] <= np.float32(d_self)
    assert (S[(distances[0] > random) & ~is_own] == 0).all()
    if has_features:
        assert S.max() <= max(99, 100 * kinship)
        if d_self < random:
            [[own]] = scale.similarity([[d_self]], [d_self], [kinship])
            assert own == pytest.approx(min(99, 100 * kinship), abs=0.051)
    else:
        np.testing.assert_array_equal(S == 100, is_own)


def test_the_scale_is_steady(make, tmp_path):
    x = make_x(900, seed=5)
    index = make(x=x[:700])
    index.save(tmp_path / "index")
    scale = index.calibration
    assert scale.n == 512
    # However the rows are stored, and whoever reads them.
    assert HiHPQIndex.load(tmp_path / "index", device="cpu", read_only=True).calibration == scale
    parts = make(x=x[:300])
    parts.add(x[300:310])
    parts.add(np.concatenate([x[310:700], x[:5]]))
    parts.remove_ids(np.arange(700, 705))
    assert parts.calibration == scale
    # With more rows it stays until they are a fifth more, here 724 of 512 * 2 ** (i / 4).
    index.add(x[700:720])
    assert index.calibration == scale
    index.add(x[720:])
    assert index.calibration != scale


def test_deleted_rows_are_not_in_the_sample(make):
    # Half of the rows lie together, far from the others.
    index = make(x=np.concatenate([X[:100], np.repeat(X[:1], 120, 0)]))
    want = make(x=X[:100]).calibration
    assert index.calibration != want
    index.remove_ids(np.arange(100, 220))
    assert index.calibration == want


@pytest.mark.parametrize("features", KINDS)
def test_the_scale_is_that_of_the_rows_after_every_change(make, features, tmp_path):
    """Of an index that was asked before, in memory or in a directory."""
    other = make(make_x(60, seed=6), features=features)
    memory = make(features=features)
    copy.copy(memory).save(tmp_path / "index")
    changes = {
        "add": lambda index: index.add(make_x(90, seed=4)),
        "update": lambda index: index.update(make_x(30, seed=7), np.arange(100, 130)),
        "remove": lambda index: index.remove_ids(np.arange(0, 200, 3)),
        "compact": lambda index: index.compact(),
        "merge": lambda index: index.merge_from(other, 1000),
        "retrain": lambda index: index.retrain(epochs=0, seed=1),
        "reset": lambda index: index.reset(),
    }
    if features == "none":
        del changes["retrain"]
    directory = HiHPQIndex.load(tmp_path / "index", device="cpu")
    reader = HiHPQIndex.load(tmp_path / "index", device="cpu", read_only=True)
    scales = [memory.calibration]
    for name, change in changes.items():
        for index in (memory, directory):
            change(index)
            assert is_of_its_rows(index, tmp_path / "copy"), name
        assert memory.calibration == directory.calibration
        # A reader has the scale of the rows that it shows.
        assert reader.calibration == scales[-1]
        assert reader.refresh() or name == "compact"
        scales.append(memory.calibration)
        assert reader.calibration == scales[-1]
    assert scales.pop() is None
    # Each of them is another one, but that compaction changes nothing.
    assert len(set(scales)) == len(scales) - 1


def test_other_features_with_the_same_codes_have_another_scale(make, tmp_path):
    index = make(features="float32")
    before = index.calibration
    near = X + np.random.default_rng(0).normal(size=X.shape).astype(np.float32) * 0.02
    same = np.flatnonzero((index.encode(near) == index.encode(X)).all(1))
    assert len(same) > 150
    codes = index.codes_of(index.ids)
    index.update(near[same], same)
    np.testing.assert_array_equal(index.codes_of(index.ids), codes)
    assert index.calibration != before
    assert is_of_its_rows(index, tmp_path / "index")


def test_indexes_of_one_codec_have_scales_of_their_own(make, codec, tmp_path):
    codes = codec.encode(X)
    scales = set()
    for kind, scale in (("int8", 1.0), ("float32", 1.0), ("float32", 0.5)):
        index = HiHPQIndex.from_codec(codec, device="cpu", features=kind)
        x = X + np.float32(scale)
        index.collection.add(codes, features=FeatureCodec(kind, D_IN).encode(x))
        assert is_of_its_rows(index, tmp_path / "index")
        scales.add(index.calibration)
    scales.add(make(features="none").calibration)
    assert len(scales) == 4


def test_rows_are_sampled_once(make, monkeypatch, tmp_path):
    drawn = []

    def ids_at(rows, positions):
        drawn.append(len(positions))
        return original(rows, positions)

    original = RowView.ids_at
    monkeypatch.setattr(RowView, "ids_at", ids_at)
    memory = make()
    copy.copy(memory).save(tmp_path / "index")
    directory = HiHPQIndex.load(tmp_path / "index", device="cpu")
    for index in (memory, directory):
        for removed in ([], [3, 9]):
            index.remove_ids(removed)
            drawn.clear()
            for _ in range(3):
                index.search_similar(X[:2], 1)
                index.similarity(X[:1], [[1.0]])
                assert index.view().calibration == index.calibration
            assert drawn == [index.ntotal]


def test_few_scales_of_a_codec_are_known_at_once(make, monkeypatch, tmp_path):
    index = make()
    known = calibration._KNOWN[index._trained()[1]] = calibration._Known()
    for id in range(3 * calibration._MAX_KNOWN):
        index.remove_ids([id])
        scale = index.calibration
        assert 1 <= len(known._by_sample) <= calibration._MAX_KNOWN
        # Other threads may forget it at any time.
        known._by_sample.clear()
        assert index.calibration == scale
    assert is_of_its_rows(index, tmp_path / "index")
