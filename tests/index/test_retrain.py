"""`retrain`: a codec learned again from kept features, and who else uses the index meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from index_tools import Unchanged

from hyperpq import HiHPQIndex
from hyperpq.codec import HiHPQCodec, PQCodec
from hyperpq.codec.frozen import FrozenCodec
from hyperpq.codec.serialization import to_files
from hyperpq.errors import (
    InvalidInputError,
    NotTrainedError,
    SnapshotChangedError,
    StoreError,
    TrainingError,
)
from hyperpq.index.learning import recipe_of
from hyperpq.index.recoding import Recoding
from hyperpq.store import verify_directory
from hyperpq.training.recipe import Recipe

RNG = np.random.default_rng(5)
X, NEW = RNG.normal(size=(2, 300, 8)).astype(np.float32)
QUERIES = RNG.normal(size=(4, 8)).astype(np.float32)


def plain_index(path=None, x=X):
    """An index of plain codebooks of 4 bits, which are learned in an instant."""
    index = HiHPQIndex(8, 4, 4, metric="l2", features="int8", device="cpu")
    index.train(X[:20])
    index.add(x, attributes={"row": np.arange(len(x))})
    if path is None:
        return index
    index.save(path)
    return HiHPQIndex.load(path, device="cpu", durability="fast", lock_timeout=60)


@pytest.fixture(params=["memory", "disk"])
def index(request, tmp_path):
    return plain_index(tmp_path / "i" if request.param == "disk" else None)


@pytest.fixture
def stored(tmp_path):
    return plain_index(tmp_path / "i")


def opened(index):
    return HiHPQIndex.load(index.path, device="cpu", durability="fast", lock_timeout=60)


def assert_whole(index):
    """Every code is what the codec makes of the features beside it."""
    ids = index.ids
    codes = index.encode(index.features_of(ids))
    np.testing.assert_array_equal(index.codes_of(ids), codes)


def same(one, other):
    return all(map(np.array_equal, one, other))


class Recorder:
    """Name, total and reported units of every phase."""

    def __init__(self):
        self.seconds, self.phases = {}, []

    @contextmanager
    def phase(self, name, total, unit="images"):
        done = [0]

        class Phase:
            def advance(self, n=1, **facts):
                done[0] += n

        yield Phase()
        self.phases.append((name, total, done[0]))


# --- what is learned --------------------------------------------------------------------------


def test_the_codec_is_that_of_a_training_on_the_kept_features(index):
    index.remove_ids([0, 299])
    ids, features, before = index.ids, index.features_of(index.ids), to_files(index.codec)
    index.retrain(seed=3)
    want = PQCodec.fit(features, 4, 4, seed=3)
    assert to_files(index.codec) == to_files(want) != before
    assert index.ids.tolist() == ids.tolist()
    assert index.next_id == 300
    np.testing.assert_array_equal(index.features_of(ids), features)
    assert index.attributes_of([7, 298])["row"].tolist() == [7, 298]
    assert_whole(index)
    assert (index.training.n, index.training.objective) == (298, "plain")
    fresh = HiHPQIndex.from_codec(want, device="cpu")
    fresh.add(features, ids)
    assert same(index.search(QUERIES, 20), fresh.search(QUERIES, 20))


def test_a_directory_has_the_new_codec_in_one_commit(stored):
    before, names = stored.collection.snapshot, {p.name for p in stored.path.iterdir()}
    stored.retrain(seed=1)
    assert stored.collection.snapshot == before + 1
    assert verify_directory(stored.path) == []
    assert len({p.name for p in stored.path.iterdir()} ^ names) == 4, "files of the former codec"
    manifest = json.loads((stored.path / "manifest.json").read_bytes())
    assert (manifest["version"], len(manifest["former"])) == (4, 1)
    again = opened(stored)
    assert to_files(again.codec) == to_files(stored.codec)
    assert again.training == stored.training
    assert same(again.search(QUERIES, 20), stored.search(QUERIES, 20))
    again.add(NEW, attributes={"row": np.arange(300)})
    again.compact()
    assert_whole(again)


def test_the_same_seed_gives_the_same_codec_and_bytes(tmp_path):
    manifests = []
    for name in "ab":
        one = plain_index(tmp_path / name)
        one.retrain(seed=7)
        manifests.append((tmp_path / name / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_learning_again_from_the_same_features_changes_nothing(index):
    index.retrain()
    codes, files = index.codes_of(index.ids), to_files(index.codec)
    index.retrain()
    assert to_files(index.codec) == files
    np.testing.assert_array_equal(index.codes_of(index.ids), codes)


def test_every_part_of_the_work_is_reported(index):
    progress = Recorder()
    index.retrain(progress=progress)
    assert progress.phases[0] == ("features", None, 0)
    assert progress.phases[-2:] == [("fit", None, 0), ("encode", 300, 300)]
    assert {name for name, *_ in progress.phases} > {"features", "fit", "encode"}


def test_at_most_train_size_vectors_are_learned_from(index):
    index.retrain(train_size=50, seed=2)
    ids = np.sort(np.random.default_rng(2).permutation(300)[:50])
    want = PQCodec.fit(index.features_of(ids), 4, 4, seed=2)
    assert to_files(index.codec) == to_files(want)
    assert index.training.n == 50
    assert_whole(index)


def test_codes_can_get_another_length(index):
    index.retrain(bits=8)
    assert (index.M, index.nbits, index.code_size, index.codec.M) == (2, 4, 1, 2)
    assert index.stats().code_size == 1
    assert_whole(index)
    index.add(NEW, attributes={"row": np.arange(300)})
    assert_whole(index)
    if index.path:
        assert opened(index).codes_of([3]).shape == (1, 1)


def test_a_learned_codec_keeps_its_recipe(tmp_path):
    index = HiHPQIndex(8, 2, metric="chord", features="float16", device="cpu")
    index.train(X[:20], epochs=0, width=16, subspaces=2, distil_epochs=0)
    index.add(X)
    index.save(tmp_path / "i")
    index.retrain()
    recipe = index.codec.recipe
    assert (recipe["width"], recipe["epochs"], index.metric) == (16, 0, "chord")
    assert (index.training.n, index.training.learned) == (300, False)
    assert_whole(index)
    index.retrain(objective="fidelity", epochs=0, bits=24)
    assert (index.objective, index.metric, index.M) == ("fidelity", "cosine", 3)
    assert index.training.objective == "fidelity"
    assert_whole(index)
    again = opened(index)
    again.retrain(epochs=0)
    assert again.objective == "fidelity"
    again.retrain(objective="semantic", epochs=0)
    assert (again.objective, again.metric) == ("semantic", "l1")
    assert_whole(again)


def test_epochs_that_the_number_of_vectors_decided_are_decided_again():
    codec = HiHPQCodec.__new__(HiHPQCodec)
    codec.__dict__["recipe"] = Recipe().replace(width=64).for_size(6000).to_dict()
    assert codec.__dict__["recipe"]["epochs"] == 20
    assert recipe_of(codec, 6000) == Recipe().replace(width=64)
    assert recipe_of(codec, None) == Recipe().replace(width=64)
    # A user has asked for 20 epochs.
    assert recipe_of(codec, 5000) == Recipe().replace(width=64, epochs=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bits": 7}, "bits is 7; expected a multiple of 4"),
        ({"bits": 12}, "expected d to be a multiple of M"),
        ({"seed": -1}, "seed is -1"),
        ({"train_size": 0}, "train_size is 0"),
        ({"epochs": 3}, "epochs is given, but .* plain"),
        ({"recipe": "paper"}, "recipe is given, but .* plain"),
    ],
)
def test_arguments_are_checked_before_any_work(index, arguments, message):
    with Unchanged8(index, InvalidInputError, message):
        index.retrain(**arguments)


class Unchanged8(Unchanged):
    def state(self):
        return self.index.ntotal, self.index.next_id, *self.index.search(QUERIES, 12)


def test_an_index_that_cannot_learn_again_says_why(tmp_path):
    index = HiHPQIndex(8, 4, 4, metric="l2", device="cpu")
    with pytest.raises(NotTrainedError):
        index.retrain()
    index.train(X)
    with pytest.raises(InvalidInputError, match="keeps no features; expected one that does"):
        index.retrain()
    index = plain_index(tmp_path / "i", X[:5])
    # As a training of so few vectors.
    with pytest.raises(InvalidInputError, match="x has 5 rows, and a codebook has 16 codewords"):
        index.retrain()
    index.reset()
    with pytest.raises(InvalidInputError, match="has no vectors; expected at least one"):
        index.retrain()
    with pytest.raises(StoreError, match="opened read-only"):
        index.add(X, attributes={"row": np.arange(300)})
        HiHPQIndex.load(index.path, device="cpu", read_only=True).retrain()
    with index.collection.exclusive(), pytest.raises(InvalidInputError, match="inside a block"):
        index.retrain()


def test_an_error_while_rows_are_encoded_changes_nothing(index, monkeypatch):
    codes, codec = index.codes_of(index.ids), index.codec
    real, calls = FrozenCodec.encode, []

    def encode(self, x):
        calls.append(len(x))
        if len(calls) > 1:
            raise TrainingError("stopped.")
        return real(self, x)

    monkeypatch.setattr("hyperpq.index.encoded._BATCH", 100)
    with monkeypatch.context() as patch:
        patch.setattr("hyperpq.index.trainable.record_of", lambda *_: index.training)
        patch.setattr(FrozenCodec, "encode", encode)
        with pytest.raises(TrainingError, match="stopped"):
            index.retrain(seed=4)
    assert calls == [100, 100]
    assert index.codec is codec
    np.testing.assert_array_equal(index.codes_of(index.ids), codes)
    if index.path:
        assert [p for p in verify_directory(index.path) if p.kind == "damage"] == []
        np.testing.assert_array_equal(opened(index).codes_of(index.ids), codes)
    index.retrain(seed=4)
    assert_whole(index)


# --- other objects, threads and processes -----------------------------------------------------


def test_others_change_the_index_while_it_is_encoded(stored, monkeypatch):
    """Encoding a million vectors takes minutes, and a writer waits for 10 s at most."""
    other, real, was = opened(stored), FrozenCodec.encode, stored.collection.held.coder
    other.collection._shown.store.lock_timeout = 0
    batches = []

    def encode(self, x):
        if self is not was and len(batches) < 2:
            batches.append(len(x))
            # The first batch is of the rows of before, the second one of what is added here.
            monkeypatch.setattr(FrozenCodec, "encode", real)
            other.add(NEW[:7] + len(batches), attributes={"row": np.arange(7)})
            other.remove_ids([len(batches)])
            other.update(X[40:41], [50])
            monkeypatch.setattr(FrozenCodec, "encode", encode)
        return real(self, x)

    with monkeypatch.context() as patch:
        patch.setattr("hyperpq.index.trainable.record_of", lambda *_: stored.training)
        monkeypatch.setattr(FrozenCodec, "encode", encode)
        stored.retrain(seed=4)
    assert len(batches) == 2
    assert stored.ids.tolist() == [0, *range(3, 314)]
    assert_whole(stored)
    np.testing.assert_array_equal(stored.features_of([50]), stored.features_of([40]))


def test_a_reader_keeps_its_snapshot_until_it_refreshes(stored):
    reader, view = opened(stored), stored.view()
    old = reader.search(QUERIES, 20)
    stored.retrain(seed=1)
    new = stored.search(QUERIES, 20)
    assert not same(old, new)
    for one in (reader, view):
        assert same(one.search(QUERIES, 20), old)
        assert_whole(one)
    assert reader.refresh()
    assert not reader.refresh()
    assert same(reader.search(QUERIES, 20), new)
    assert to_files(reader.codec) == to_files(stored.codec)
    assert same(view.search(QUERIES, 20), old)


def test_a_pickle_of_before_shows_the_newest_snapshot(stored):
    data = [pickle.dumps(one) for one in (stored, stored.collection, stored.collection.view())]
    unopened = pickle.loads(data[0])
    stored.retrain(seed=1, bits=8)
    for index in (unopened, pickle.loads(data[0])):
        assert same(index.search(QUERIES, 20), stored.search(QUERIES, 20))
        assert (index.M, index.code_size) == (2, 1)
    collection, view = map(pickle.loads, data[1:])
    for rows in (collection.view(), view, pickle.loads(pickle.dumps(stored.collection.view()))):
        assert rows.code_size == 1
        np.testing.assert_array_equal(rows.codes_of([5, 3]), stored.codes_of([5, 3]))
        assert to_files(rows.codec) == to_files(stored.codec)


def test_a_writer_of_the_former_codec_encodes_again(stored):
    """Its changes are made to rows of the new codec, which it then shows."""
    changes = {
        "add": lambda one: one.add(NEW[:9], attributes={"row": np.arange(9)}),
        "update": lambda one: one.update(NEW[:9], np.arange(9)),
        "encoded": lambda one: one.add_encoded(
            encoded[5:], attributes={"row": np.arange(5)}, remove=[20, 21]
        ),
        "merge": lambda one: one.merge_from(other, 1000),
        "remove": lambda one: one.remove_ids([30, 31]),
        "compact": lambda one: one.compact(),
    }
    for seed, (name, change) in enumerate(changes.items()):
        writer, encoded = opened(stored), opened(stored).encoded(NEW[:10])
        other = stored.clone()
        stored.retrain(seed=seed + 1)
        change(writer)
        stored.refresh()
        assert to_files(writer.codec) == to_files(stored.codec), name
        assert_whole(writer)
        assert writer.ids.tolist() == stored.ids.tolist()
    assert stored.ntotal == 2 * (300 + 9 + 3) - 2
    assert_whole(opened(stored))
    assert stored.attributes_of([300, 308])["row"].tolist() == [0, 8]


def test_codes_of_a_former_codec_are_never_stored(stored):
    several, old = [opened(stored) for _ in range(3)], stored.clone()
    features = stored.collection.feature_codec.encode(NEW[:2])
    codes = stored.encode(NEW[:2])
    stored.retrain(seed=1)
    changes = [
        lambda rows: rows.add(codes, attributes={"row": [0, 1]}, features=features),
        lambda rows: rows.update([0, 1], codes, features=features),
        lambda rows: rows.merge(old.collection.view(), 1000),
    ]
    for writer, change in zip(several, changes, strict=True):
        with pytest.raises(SnapshotChangedError, match=r"the codec was replaced .* encode"):
            change(writer.collection)
        # It shows the newest rows, so that the next attempt can have their codec.
        assert to_files(writer.codec) == to_files(stored.codec)
    with pytest.raises(SnapshotChangedError, match="the codec was replaced"):
        stored.collection.add(codes, attributes={"row": [0, 1]}, features=features, codec=old.codec)
    stored.refresh()
    assert stored.ntotal == 300
    assert_whole(stored)


@pytest.mark.parametrize("call", ["add", "update"])
def test_a_thread_that_changes_the_length_of_codes_in_between(index, monkeypatch, call):
    collection, change = index.collection, getattr(index.collection, call)

    def late(*arguments, **options):
        monkeypatch.undo()
        index.retrain(seed=1, bits=32)
        return change(*arguments, **options)

    monkeypatch.setattr(collection, call, late)
    getattr(index, call)(
        NEW[:2], np.array([700, 701]) if call == "add" else [3, 4], attributes={"row": [0, 1]}
    )
    assert index.code_size == 4
    assert index.ntotal == (302 if call == "add" else 300)
    assert_whole(index)


def test_another_index_in_the_place_of_one_that_learns(stored, monkeypatch):
    """It has the same codec, and shards of the same numbers with other rows."""
    other = HiHPQIndex.from_codec(stored.codec, device="cpu", features="int8")
    other.add(NEW[:200], attributes={"row": np.arange(200)})
    prepare = Recoding.prepare

    def late(recoding, shards):
        prepare(recoding, shards)
        monkeypatch.undo()
        other.save(stored.path, overwrite=True)

    monkeypatch.setattr(Recoding, "prepare", late)
    stored.retrain(seed=1)
    assert stored.ntotal == 200
    assert_whole(stored)


def test_an_index_that_keeps_no_features_is_another_one(stored):
    late = opened(stored)
    other = HiHPQIndex.from_codec(stored.codec, device="cpu")
    other.add(NEW[:2], attributes={"row": [0, 1]})
    other.save(stored.path, overwrite=True)
    for call in (late.refresh, late.compact, lambda: late.retrain(seed=1)):
        with pytest.raises(StoreError, match="another index is in this place now"):
            call()
    # It shows what it showed before.
    assert (late.ntotal, late.has_features) == (300, True)
    assert_whole(late)


def test_one_that_learned_from_a_former_snapshot_encodes_the_newest_rows(stored):
    late = opened(stored)
    stored.add(NEW[:10], attributes={"row": np.arange(10)})
    stored.retrain(seed=1, bits=8)
    late.retrain(seed=2)
    assert (late.M, late.ntotal, late.training.n) == (4, 310, 300)
    assert_whole(late)
    stored.refresh()
    assert to_files(stored.codec) == to_files(late.codec)
    assert_whole(stored)


def test_a_change_on_a_snapshot_is_refused_after_another_codec(stored):
    writer = opened(stored)
    with writer.collection.on_this_snapshot():
        stored.retrain(seed=1)
        with pytest.raises(SnapshotChangedError):
            writer.add(NEW[:2], attributes={"row": [0, 1]})
    assert opened(stored).ntotal == 300


def test_threads_search_and_add_while_another_one_learns(index):
    """Every answer is that of the rows and the codec of one moment."""
    fixed = index.ids
    moments, done = {}, threading.Event()

    def answer(one):
        return one.search(QUERIES, 10, where="row >= 0")

    def keep(one):
        view = one.view()
        moments[to_files(view.codec)["codec.safetensors"]] = answer(view)

    keep(index)

    def learn():
        try:
            for seed in range(1, 6):
                index.retrain(seed=seed)
                keep(index)
        finally:
            done.set()

    def search():
        found = []
        while not done.is_set():
            found.append(answer(index))
            view = index.view()
            view.codec.check_trained()
            assert_whole(view)
        return found

    def add():
        n = 0
        while not done.is_set():
            x = NEW[n % len(NEW)][None]
            index.add(x, attributes={"row": [-1]})
            index.update(x, index.ids[-1:])
            n += 1
        return []

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work) for work in (learn, search, search, add)]
        answers = [found for future in futures[1:] for found in future.result()]
        futures[0].result()
    assert len(moments) == 6
    assert answers
    for found in answers:
        assert any(same(found, want) for want in moments.values()), "an answer of no moment"
    assert_whole(index)
    assert np.isin(fixed, index.ids).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_add_and_search_while_another_one_learns(stored):
    """Children add, and each answer that they get is that of one snapshot."""
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                writer = opened(stored)
                for row in range(12):
                    at = number * 100 + row
                    writer.add(NEW[at : at + 1], attributes={"row": [1000 + at]})
                    view = writer.view()
                    assert_whole(view)
                    alone = HiHPQIndex.from_codec(view.codec, device="cpu")
                    alone.add(view.features_of(view.ids), view.ids)
                    assert same(view.search(QUERIES, 10), alone.search(QUERIES, 10))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for seed in range(1, 6):
        stored.retrain(seed=seed)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    stored.refresh()
    added = stored.select(where="row >= 1000")
    assert len(added) == 24
    rows = stored.attributes_of(added)["row"] - 1000
    kept = stored.collection.feature_codec
    np.testing.assert_array_equal(stored.features_of(added), kept.decode(kept.encode(NEW[rows])))
    assert_whole(stored)
    assert_whole(opened(stored))
    assert verify_directory(stored.path) == []
