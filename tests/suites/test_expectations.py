"""What users of nanopq, hnswlib and usearch take for granted, where no other test has it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hyperpq import HiHPQIndex, PQCodec, SearchParameters, index_factory, read_index, write_index
from hyperpq.errors import IndexNotFoundError, InvalidInputError, StoreError, UnknownIdError
from hyperpq.filters.selectors import IDSelector

pytest.importorskip("faiss")

N, D = 400, 16
RNG = np.random.default_rng(0)
# Around some centres, with coordinates that depend on each other.
X = (
    (RNG.normal(size=(40, D))[RNG.integers(0, 40, N)] + 0.3 * RNG.normal(size=(N, D)))
    @ RNG.normal(size=(D, D))
).astype(np.float32)
QUERIES = X[:20] + 0.01 * RNG.normal(size=(20, D)).astype(np.float32)
IDS = RNG.permutation(10 * N)[:N].astype(np.int64)

KEYS = ("HiHPQ8", "PQ8", "PQ8x4", "OPQ8,PQ8")


@pytest.fixture(scope="module")
def trained() -> dict[str, HiHPQIndex]:
    """Empty indexes of every kind; not to be changed."""
    made = {}
    for key in KEYS:
        made[key] = index_factory(D, key, device="cpu")
        made[key].train(X, **({"epochs": 0} if key.startswith("HiHPQ") else {}))
    return made


@pytest.fixture(params=KEYS)
def index(request, trained) -> HiHPQIndex:
    """An index of X under the ids of `IDS`."""
    filled: HiHPQIndex = trained[request.param].clone()
    filled.add(X, IDS)
    return filled


class Where(IDSelector):
    """A selector of one's own, as hnswlib takes a filter function."""

    def __init__(self, keep):
        self.keep = keep

    def mask(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.fromiter((self.keep(int(id)) for id in ids), np.bool_, len(ids))


# nanopq: fit, encode, decode, dtable, adist.


@pytest.mark.parametrize("rotation", [0, D])
def test_tables_are_the_distances_to_what_codes_decode_to(rotation):
    codec = PQCodec.fit(X, 4, rotation=rotation)
    codes = codec.encode(X)
    assert (codes.shape, codes.dtype) == ((N, 4), np.uint8)
    decoded = codec.decode(codes).astype(np.float64)
    want = ((QUERIES[:, None].astype(np.float64) - decoded) ** 2).sum(2)
    sums = codec.tables(QUERIES)[:, np.arange(4), codes].sum(2)
    np.testing.assert_allclose(sums, want, rtol=1e-5, atol=1e-4)
    index = HiHPQIndex.from_codec(codec, device="cpu")
    index.add(X)
    D_, I = index.search(QUERIES, N)  # noqa: E741
    np.testing.assert_allclose(D_, np.take_along_axis(want, I, 1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("M", [1, 4, 16])
@pytest.mark.parametrize("nbits", [8, 4])
def test_a_decoded_vector_has_the_code_that_it_came_from(M, nbits):
    codec = PQCodec.fit(X, M, nbits)
    decoded = codec.decode(codec.encode(X))
    np.testing.assert_array_equal(codec.decode(codec.encode(decoded)), decoded)


def test_more_codes_and_a_rotation_lose_less():
    def lost(M, nbits=8, rotation=0):
        codec = PQCodec.fit(X, M, nbits, rotation=rotation)
        return ((codec.decode(codec.encode(X)) - X) ** 2).sum(1).mean()

    assert lost(16) < lost(8) < lost(4) < lost(2) < X.var(0).sum()
    assert lost(8) < lost(8, 4)
    assert lost(4, rotation=D) < lost(4)
    # As many codewords as vectors: nothing is lost.
    few = PQCodec.fit(X[:256], 4)
    np.testing.assert_allclose(few.decode(few.encode(X[:256])), X[:256], atol=1e-5)


# hnswlib: labels of one's own, a filter function, deleted labels.


def test_items_come_in_the_order_of_the_labels(index):
    some = IDS[[7, 3, 3, 399]]
    vectors = index.reconstruct_batch(some)
    for row, id in enumerate(some):
        np.testing.assert_array_equal(vectors[row], index.reconstruct(int(id)))
    np.testing.assert_array_equal(index.codes_of(some), index.encode(X[[7, 3, 3, 399]]))
    assert sorted(index) == sorted(IDS.tolist())


def test_a_filter_function_selects_labels(index):
    params = SearchParameters(sel=Where(lambda id: id % 3 == 0))
    found = index.search(QUERIES, 10, params=params)
    everything = index.search(QUERIES, N)
    for D_, I, all_D, all_I in zip(*found, *everything, strict=True):  # noqa: E741
        kept = all_I % 3 == 0
        np.testing.assert_array_equal(I, all_I[kept][:10])
        np.testing.assert_array_equal(D_, all_D[kept][:10])
    # None is left: only padding.
    D_, I = index.search(  # noqa: E741
        QUERIES, 3, params=SearchParameters(sel=Where(lambda id: False))
    )
    assert (I == -1).all() and np.isposinf(D_).all()


def test_a_deleted_label_is_free_again(index):
    label = int(IDS[0])
    nearest = index.search(X[:1], 1)[1][0, 0]
    with pytest.raises(InvalidInputError, match="id"):
        index.add(X[1:2], [label])
    assert index.remove_ids([label]) == 1
    assert label not in index.search(X[:1], N)[1]
    with pytest.raises(UnknownIdError):
        index.reconstruct(label)
    index.add(X[:1], [label])
    assert index.search(X[:1], 1)[1][0, 0] == nearest
    # A label that is there gets a new vector by `update`.
    index.update(X[200:201], [label])
    np.testing.assert_array_equal(index.codes_of([label]), index.encode(X[200:201]))
    assert index.ntotal == N


# usearch: keys, recall of itself, an empty index, restoring.


def test_each_vector_finds_itself(index):
    D_, I = index.search(X, 1)  # noqa: E741
    # Other vectors with the same code are as near; the nearest code is that of the vector.
    codes = index.codes_of(I[:, 0])
    own = index.encode(X)
    same = (codes == own).all(1)
    assert same.mean() > (0.9 if index.nbits == 8 else 0.7)
    assert (index.search(X, N)[0] >= D_).all()


def test_any_number_of_results(index):
    for k in (1, N - 1, N, N + 1, 3 * N):
        D_, I = index.search(QUERIES[:2], k)  # noqa: E741
        there = min(k, N)
        assert D_.shape == I.shape == (2, k)
        assert all(len(set(row[:there].tolist())) == there for row in I)
        assert (I[:, there:] == -1).all() and np.isposinf(D_[:, there:]).all()
        assert np.isfinite(D_[:, :there]).all() and (np.diff(D_[:, :there]) >= 0).all()


def test_an_empty_index_answers(trained):
    for index in trained.values():
        assert len(index) == 0 and list(index) == []
        D_, I = index.search(QUERIES, 5)  # noqa: E741
        assert (I == -1).all() and np.isposinf(D_).all()
        lims, D_, I = index.range_search(QUERIES, 1e9)  # noqa: E741
        assert lims.tolist() == [0] * 21 and len(D_) == len(I) == 0
        other = index.clone()
        other.add(X[:0])
        other.add(X[:0], IDS[:0])
        assert other.remove_ids([1, 2]) == 0
        other.merge_from(index)
        assert len(other) == 0
        assert other.reconstruct_n().shape[0] == 0


def test_no_queries(index):
    D_, I = index.search(X[:0], 5)  # noqa: E741
    assert D_.shape == I.shape == (0, 5)
    assert (D_.dtype, I.dtype) == (np.float32, np.int64)
    lims, D_, I = index.range_search(X[:0], 1.0)  # noqa: E741
    assert lims.tolist() == [0] and len(D_) == len(I) == 0


def test_duplicates_are_all_found(index):
    """The same vector under several ids: equal distances, ids ascending."""
    index.add(np.repeat(X[5:6], 4, axis=0), [99_000, 98_000, 2**62, 97_000])
    D_, I = index.search(X[5:6], N + 4)  # noqa: E741
    rows = np.isin(I[0], [int(IDS[5]), 97_000, 98_000, 99_000, 2**62])
    assert rows.sum() == 5
    assert len(set(D_[0, rows].tolist())) == 1
    assert I[0, rows].tolist() == sorted(I[0, rows].tolist())


def test_restored_and_viewed(index, tmp_path):
    want = index.search(QUERIES, 10)
    index.save(tmp_path / "index")
    for found in (read_index(tmp_path / "index"), HiHPQIndex.load(tmp_path / "index")):
        assert len(found) == N
        for ours, theirs in zip(found.search(QUERIES, 10), want, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    found.reset()
    assert len(found) == 0
    found.add(X, IDS)
    np.testing.assert_array_equal(found.search(QUERIES, 10)[1], want[1])


# FAISS: an index is a file.


def test_a_file_is_no_place_for_an_index(index, tmp_path):
    file = tmp_path / "made.index"
    file.write_bytes(b"")
    for write in (lambda: write_index(index, file), lambda: index.save(file)):
        with pytest.raises(StoreError, match=r"made.index: this is a file, and an index is a"):
            write()
    with pytest.raises(IndexNotFoundError, match="this is a file; an index is a folder"):
        read_index(file)
    assert file.read_bytes() == b""
