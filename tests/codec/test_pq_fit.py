"""Plain codebooks that are trained here: as good as those of FAISS from the same vectors."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from hyperpq import HiHPQIndex, PQCodec, index_factory
from hyperpq.codec.serialization import to_files
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.evaluation import knn, recall_at
from hyperpq.progress import SilentProgress

D, N, NQ = 32, 1600, 400


@pytest.fixture(scope="module")
def x():
    """Correlated vectors, as features are: a rotation is of use."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(D, D)) * np.linspace(2, 0.1, D)
    centres = rng.normal(size=(40, D)) @ mixing.T
    rows = centres[rng.integers(40, size=N + NQ)] + 0.7 * rng.normal(size=(N + NQ, D)) @ mixing.T
    return rows.astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small k-means on many threads wait for each other where other tests run besides."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def error_of(decoded, x):
    return float(np.square(decoded - x).sum(1).mean())


@pytest.mark.parametrize(
    ("text", "metric"),
    [("PQ8np", "l2"), ("PQ16x4np", "ip"), ("OPQ8,PQ8x4np", "l2"), ("OPQ4_16,PQ4x8np", "ip")],
)
def test_codes_are_as_good_as_those_of_faiss(x, text, metric):
    rows, queries = x[:N], x[N:]
    theirs = faiss.index_factory(D, text, metric != "ip")
    theirs.train(rows)
    theirs.add(rows)
    ours = index_factory(D, text, metric, device="cpu")
    ours.train(rows)
    ours.add(rows)
    codec = ours.codec
    assert isinstance(codec, PQCodec)
    their_error = error_of(theirs.sa_decode(theirs.sa_encode(rows)), rows)
    assert error_of(codec.decode(codec.encode(rows)), rows) < 1.02 * their_error
    if metric == "ip":
        truth = np.argsort(-(queries @ rows.T), 1)[:, :10]
    else:
        truth = knn(queries, rows, 10, metric="l2")[1]
    # The recall of 400 queries varies by .006 with the seed of k-means.
    recall = recall_at(ours.search(queries, 10)[1], truth)
    assert recall > 0.98 * recall_at(theirs.search(queries, 10)[1], truth) - 0.006


@pytest.mark.parametrize("metric", [faiss.METRIC_L2, faiss.METRIC_INNER_PRODUCT])
@pytest.mark.parametrize("text", ["PQ8x4", "OPQ8_16,PQ8x4"])
def test_distances_are_those_of_faiss(x, text, metric):
    index = index_factory(D, text, metric, device="cpu")
    index.train(x[:1000])
    index.add(x[:1000])
    export = index.to_faiss()
    want = export.distances(export.index.search(export.queries(x[N:]), 20)[0])
    np.testing.assert_allclose(index.search(x[N:], 20)[0], want, rtol=2e-5, atol=2e-4)
    back = HiHPQIndex.from_faiss(export.index)
    assert to_files(back.codec) == to_files(index.codec)


def test_seed_progress_and_files(x, tmp_path):
    class Heard(SilentProgress):
        def _open(self, name, total, unit):
            heard.append((name, total))
            return super()._open(name, total, unit)

    heard = []
    index = HiHPQIndex(D, 4, 4, metric="l2", rotation=16, device="cpu")
    index.train(x, seed=3, progress=Heard())
    assert heard == [("rotation", 25), ("codebooks", 4)]
    same = PQCodec.fit(x, 4, 4, rotation=16, seed=3)
    assert to_files(same) == to_files(index.codec)
    assert to_files(PQCodec.fit(x, 4, 4, rotation=16, seed=4)) != to_files(same)
    index.add(x[:100], attributes={"n": np.arange(100)})
    index.save(tmp_path / "index")
    again = HiHPQIndex.load(tmp_path / "index", device="cpu")
    assert repr(again) == (
        f"HiHPQIndex(d=32, M=4, nbits=4, metric='l2', rotation=16, ntotal=100, "
        f"path={str(tmp_path / 'index')!r})"
    )
    np.testing.assert_array_equal(again.search(x[:9], 5), index.search(x[:9], 5))
    assert again.reconstruct(3).shape == (D,)


@pytest.mark.parametrize("text", ["PQ8", "PQ8x4", "OPQ8,PQ8", "OPQ8,PQ8x4"])
def test_fewer_vectors_than_codewords_are_refused_as_in_faiss(x, text):
    codewords = 16 if text.endswith("x4") else 256
    with pytest.raises(RuntimeError):
        faiss.index_factory(D, text).train(x[: codewords - 1])
    index = index_factory(D, text, device="cpu")
    for n in (1, 5, codewords - 1):
        named = f"^x has {n} rows, and a codebook has {codewords} codewords; expected at least"
        with pytest.raises(InvalidInputError, match=named):
            index.train(x[:n])
    assert not index.is_trained
    index.train(x[:codewords])
    assert index.is_trained


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("rotation", [0, 8])
def test_as_many_vectors_as_codewords_are_their_own_codewords(n, rotation):
    x = np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)
    codec = PQCodec.fit(x, 2, 4, rotation=rotation)
    if n <= 16:
        np.testing.assert_allclose(codec.decode(codec.encode(x)), x, atol=1e-5)
    assert np.isfinite(codec.tables(x)).all()


def test_constant_columns_and_many_vectors():
    x = np.zeros((300, 8), np.float32)
    x[:, 3] = np.arange(300)
    codec = PQCodec.fit(x, 4, 8, rotation=8)
    assert np.abs(codec.decode(codec.encode(x)) - x).max() <= 1.5
    wide = np.random.default_rng(0).normal(size=(70_000, 4)).astype(np.float32)
    evenly = PQCodec.fit(wide[::2], 2, 4)
    assert to_files(PQCodec.fit(wide, 2, 4)) == to_files(evenly)


def test_no_batch_shows_in_rotated_codes_and_tables(x):
    codec = PQCodec.fit(x, 8, 4, rotation=24)
    tables, codes, decoded = codec.tables(x), codec.encode(x), codec.embed(x)
    for rows in (slice(5, 6), slice(100, 612), slice(600, 1113)):
        assert codec.tables(x[rows]).tobytes() == tables[rows].tobytes()
        assert codec.encode(x[rows]).tobytes() == codes[rows].tobytes()
        assert codec.embed(x[rows]).tobytes() == decoded[rows].tobytes()
    own = codec.decode(codes)
    assert codec.decode(codes[7:8]).tobytes() == own[7:8].tobytes()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: PQCodec.fit(x, 5), "d is 32 and M is 5; expected d to be a multiple of M"),
        (lambda x: PQCodec.fit(x, 4, 5), "nbits is 5"),
        (lambda x: PQCodec.fit(x, 4, metric="l1"), "metric is 'l1'; expected 'l2' or 'ip'"),
        (lambda x: PQCodec.fit(x, 4, rotation=6), "rotation is 6 with d 32 and M 4"),
        (lambda x: PQCodec.fit(x, 4, rotation=36), "rotation is 36 with d 32"),
        (lambda x: PQCodec.fit(x, 4, rotation=True), "rotation is True"),
        (lambda x: PQCodec.fit(x, 4, seed=-1), "seed is -1"),
        (lambda x: PQCodec.fit(x[:0], 4), r"x has shape \(0, 32\); expected \(n, d\) with at"),
        (lambda x: PQCodec.fit(x[0], 4), r"x has shape \(32,\)"),
        (lambda x: PQCodec.fit(x * np.nan, 4), "NaN"),
        (lambda x: HiHPQIndex(10, 4, metric="l2"), "d is 10 and M is 4"),
        (lambda x: HiHPQIndex(16, 4, rotation=16), "only plain codebooks"),
    ],
)
def test_bad_input(x, call, message):
    with pytest.raises(InvalidInputError, match=message):
        call(x[:20])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"epochs": 3}, "epochs is given, but an index with the metric 'ip' has plain codebooks"),
        ({"recipe": "paper"}, "recipe is given"),
        ({"objective": "fidelity"}, "objective is given"),
        ({"views": np.zeros((1, 300, D))}, "views is given"),
        ({"checkpoint": "c"}, "checkpoint is given"),
        ({"resume": True}, "resume is given"),
        ({"trace_path": "t"}, "trace_path is given"),
    ],
)
def test_a_recipe_is_refused_with_plain_codebooks(x, arguments, named):
    index = HiHPQIndex(D, 4, metric="ip", device="cpu")
    with pytest.raises(InvalidInputError, match=named):
        index.train(x[:300], **arguments)
    assert not index.is_trained


def test_an_empty_index_is_trained_again(x):
    index = HiHPQIndex(D, 4, 4, metric="l2", device="cpu")
    with pytest.raises(NotTrainedError, match=r"call train\(x\) of the index"):
        index.search(x[:2], 3)
    index.train(x[:300])
    first = to_files(index.codec)
    index.train(x[300:600])
    assert to_files(index.codec) != first
    # As FAISS would.
    foreign = HiHPQIndex.from_codec(index.codec, device="cpu")
    foreign.train(x[:300])
    assert to_files(foreign.codec) == first
