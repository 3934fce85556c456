"""Importing files of vectors has the same result as adding the vectors, or changes nothing."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError
from hyperpq.index.collection import Collection
from hyperpq.io.import_vectors import import_vectors

X = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained, empty index; not to be changed."""
    index = HiHPQIndex(5, 2, device="cpu")
    index.train(X, epochs=0)
    return index


@pytest.fixture
def place(trained, tmp_path):
    """A directory with an index of ten vectors, an empty one, and files of vectors."""
    index = trained.clone()
    index.save(tmp_path / "none")
    index = trained.clone()
    index.add(X[:10])
    index.save(tmp_path / "index")
    np.save(tmp_path / "a.npy", X[:300])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["one"], file["two"] = X[300:], X[300:, :4]
    return tmp_path


def rows(index):
    """Id -> code of all rows."""
    return {
        int(id): bytes(code)
        for batch in index.collection.view().batches()
        for id, code in zip(batch.ids, batch.codes, strict=True)
    }


def test_no_file_is_imported_twice_by_mistake(place):
    index, a = place / "index", place / "a.npy"
    first = import_vectors([a], index, device="cpu")
    assert (first.added, first.skipped) == (300, 0)
    # The vectors count, and not the file.
    texmex = np.empty((300, 6), "<f4")
    texmex[:, 0], texmex[:, 1:] = np.array([5], "<i4").view("<f4"), X[:300]
    texmex.tofile(place / "same.fvecs")
    before = rows(first.index)
    said = "has vectors that are in the index: those of .*a.npy have the ids 10 to 309; nothing"
    for files in ([a], [place / "same.fvecs"]):
        with pytest.raises(InvalidInputError, match=said):
            import_vectors(files, index, device="cpu")
    assert rows(HiHPQIndex.load(index, device="cpu")) == before
    np.save(place / "new.npy", X[300:310])
    done = import_vectors([a, place / "new.npy"], index, repeated="skip", device="cpu")
    assert (done.added, done.skipped, done.index.ntotal) == (10, 300, 320)
    assert import_vectors([a], index, repeated="add", device="cpu").index.ntotal == 620
    # Ids of one's own are checked by themselves.
    np.save(place / "ids.npy", np.arange(1000, 1300))
    assert import_vectors([a], index, ids=place / "ids.npy", device="cpu").index.ntotal == 920


def test_what_was_removed_can_be_imported_again(place):
    done = import_vectors([place / "a.npy"], place / "index", device="cpu")
    done.index.remove_ids(np.arange(10, 310))
    assert import_vectors([place / "a.npy"], place / "index", device="cpu").added == 300


def test_a_file_that_is_given_twice(place):
    with pytest.raises(InvalidInputError, match=r"has the vectors of .*a.npy, which is given, too"):
        import_vectors([place / "a.npy"] * 2, place / "index", device="cpu")
    done = import_vectors([place / "a.npy"] * 2, place / "index", repeated="skip", device="cpu")
    assert (done.added, done.skipped) == (300, 300)


def test_an_interrupted_import_goes_on(place, monkeypatch):
    monkeypatch.setattr("hyperpq.index.streamed.SEGMENT_SIZE", 100)
    monkeypatch.setattr("hyperpq.io.import_vectors.batch_rows", lambda d: 50)
    add, calls = Collection.add, []

    def full_disk(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise StoreError("the disk is full.")
        return add(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "add", full_disk)
        with pytest.raises(StoreError, match="the disk is full; 200 vectors were added to "):
            import_vectors([place / "a.npy"], place / "index", device="cpu")
    with pytest.raises(InvalidInputError, match=r"the first 200 of those of .* 10 to 209; nothing"):
        import_vectors([place / "a.npy"], place / "index", device="cpu")
    done = import_vectors([place / "a.npy"], place / "index", repeated="skip", device="cpu")
    assert (done.added, done.skipped) == (100, 200)
    codes = done.index.encode(np.concatenate([X[:10], X[:300]]))
    assert rows(done.index) == {id: bytes(code) for id, code in enumerate(codes)}


def test_an_import_record_that_was_changed_is_no_error(place):
    import_vectors([place / "a.npy"], place / "index", device="cpu")
    (place / "index/imports.csv").write_bytes(b"checksum,vectors\n\xff,many\n")
    assert import_vectors([place / "a.npy"], place / "index", device="cpu").added == 300


def test_segments_of_batches_are_all_rows(place, monkeypatch):
    monkeypatch.setattr("hyperpq.index.streamed.SEGMENT_SIZE", 128)
    monkeypatch.setattr("hyperpq.io.import_vectors.batch_rows", lambda d: 50)
    np.save(place / "c.npy", X[300:])
    done = import_vectors([place / "a.npy", place / "c.npy"], place / "index", device="cpu")
    assert (done.added, done.trained_on) == (500, 0)
    again = HiHPQIndex.load(place / "index", device="cpu")
    codes = again.encode(np.concatenate([X[:10], X]))
    assert rows(again) == {id: bytes(code) for id, code in enumerate(codes)}


def test_an_empty_index_is_filled(place):
    done = import_vectors([place / "a.npy"], place / "none", device="cpu")
    assert (done.added, done.trained_on, done.index.ntotal) == (300, 0, 300)


def test_ids_of_the_callers(place):
    ids = np.random.default_rng(1).permutation(1000)[:300] + 10
    np.save(place / "ids.npy", ids.astype(np.uint16))
    index = import_vectors(
        [place / "a.npy"], place / "index", ids=place / "ids.npy", device="cpu"
    ).index
    want = dict(zip(ids.tolist(), map(bytes, index.encode(X[:300])), strict=True))
    assert rows(index) == want | {id: bytes(code) for id, code in enumerate(index.encode(X[:10]))}


def test_a_new_index_learns_from_a_sample(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperpq.io.import_vectors.TRAIN_SIZE", 100)
    np.save(tmp_path / "x.npy", X)
    seen = []
    train = HiHPQIndex.train
    monkeypatch.setattr(
        HiHPQIndex, "train", lambda self, x, **rest: (seen.append(x), train(self, x, **rest))[1]
    )
    options = {"bits": 8, "metric": "chord", "epochs": 0, "seed": 3, "device": "cpu"}
    done = import_vectors([tmp_path / "x.npy"], tmp_path / "new", **options)
    assert (done.added, done.trained_on, done.index.ntotal) == (500, 100, 500)
    assert (done.index.M, done.index.metric, done.index.path) == (1, "chord", tmp_path / "new")
    (sample,) = seen
    assert len({row.tobytes() for row in sample}) == 100
    assert {row.tobytes() for row in sample} < {row.tobytes() for row in X}


WRONG = {
    "value": ({"files": ["a.npy", "nan.npy"]}, "*nan.npy has NaN, * first in row 2; *"),
    "width": (
        {"files": ["wide.npy"]},
        "*wide.npy has width 6; expected 5, that of the vectors of the index *index.",
    ),
    "widths": (
        {"files": ["a.npy", "wide.npy"], "into": "new"},
        "*wide.npy has width 6; expected 5, that of *a.npy.",
    ),
    "dataset": ({"files": ["b.h5"], "dataset": "three"}, "*b.h5 has no dataset 'three'; it has *"),
    "datasets": (
        {"files": ["b.h5"]},
        "*b.h5 has 2 datasets of two dimensions ('one', 'two'); choose *",
    ),
    "known id": (
        {"files": ["a.npy"], "ids": "ids.npy"},
        "ids contain 9, which the index has already; expected new ids.",
    ),
    "number of ids": (
        {"files": ["few.npy"], "ids": "ids.npy"},
        "ids have shape (300,); expected (3,), one for each row.",
    ),
    "id twice": (
        {"files": ["few.npy"], "ids": "twice.npy"},
        "ids contain 1 twice; expected distinct ids.",
    ),
    "ids of a matrix": (
        {"files": ["few.npy"], "ids": "few.npy"},
        "*few.npy holds (3, 5); expected one array of shape (n,).",
    ),
    "no vectors": (
        {"files": ["none.npy"], "into": "new"},
        "*none.npy: there are no vectors; expected vectors to train on.",
    ),
    "training": (
        {"files": ["a.npy"], "bits": 8, "seed": 0},
        "bits, seed cannot be chosen for *index, which is trained already; *",
    ),
    "training of an empty index": (
        {"files": ["a.npy"], "into": "none", "epochs": 0},
        "epochs cannot be chosen for *none, which is trained already; *",
    ),
    "width of an empty index": (
        {"files": ["wide.npy"], "into": "none"},
        "*wide.npy has width 6; expected 5, that of the vectors of the index *none.",
    ),
    "no file": ({"files": []}, "no file of vectors was given; expected at least one."),
    "bits": ({"files": ["a.npy"], "into": "new", "bits": 12}, "bits is 12; expected a multiple *"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_changes_nothing(place, name):
    options, said = WRONG[name]
    bad = X[:5].copy()
    bad[2] = np.nan
    np.save(place / "nan.npy", bad)
    np.save(place / "few.npy", X[:3])
    np.save(place / "none.npy", X[:0])
    np.save(place / "wide.npy", np.zeros((3, 6)))
    np.save(place / "ids.npy", np.arange(9, 309))
    np.save(place / "twice.npy", np.array([1, 2, 1]))
    manifests = [place / name / "manifest.json" for name in ("index", "none")]
    before = [path.read_bytes() for path in manifests]
    options = dict(options)
    files = [place / file for file in options.pop("files")]
    into = place / options.pop("into", "index")
    if "ids" in options:
        options["ids"] = place / options["ids"]
    with pytest.raises(InvalidInputError) as caught:
        import_vectors(files, into, device="cpu", **options)
    pattern = re.escape(said).replace(r"\*", ".*")
    assert re.fullmatch(pattern, str(caught.value)), str(caught.value)
    assert [path.read_bytes() for path in manifests] == before
    assert not (place / "new").exists()


def test_places_without_an_index(place):
    (place / "other").mkdir()
    (place / "other/file").write_text("")
    for create, where in ((True, "other"), (False, "new")):
        with pytest.raises(IndexNotFoundError, match="no index here"):
            import_vectors([place / "a.npy"], place / where, create=create)
    (place / "empty").mkdir()
    done = import_vectors([place / "a.npy"], place / "empty", epochs=0, device="cpu")
    assert done.index.ntotal == 300


def test_ids_that_cannot_be_counted_on(place):
    index = HiHPQIndex.load(place / "index", device="cpu")
    index.add(X[:1], ids=[2**63 - 2])
    with pytest.raises(
        InvalidInputError, match="ids cannot be counted on from 9223372036854775807"
    ):
        import_vectors([place / "a.npy"], place / "index", device="cpu")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StoreError("disk full")])
def test_what_was_added_before_a_stop_is_said(place, monkeypatch, error):
    monkeypatch.setattr("hyperpq.index.streamed.SEGMENT_SIZE", 100)
    monkeypatch.setattr("hyperpq.io.import_vectors.batch_rows", lambda d: 50)
    add, calls = Collection.add, []

    def failing(self, codes, *args, **options):
        calls.append(len(codes))
        if len(calls) == 3:
            raise error
        add(self, codes, *args, **options)

    monkeypatch.setattr(Collection, "add", failing)
    with pytest.raises(type(error), match=r"200 vectors were added to .*index\.?$"):
        import_vectors([place / "a.npy"], place / "index", device="cpu")
    assert HiHPQIndex.load(place / "index", device="cpu").ntotal == 210
