"""To FAISS and back: both searches find the same rows at the same distances."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex, scan
from hyperpq.codec.additive import AdditiveCodec
from hyperpq.codec.config import AdditiveConfig, CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.pq import PQCodec
from hyperpq.codes import unpack
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.geometry import GEOMETRIES, get_geometry
from hyperpq.index.faiss_bridge import FaissExport, from_faiss, to_faiss, write_faiss

d, N, K = 24, 1500, 12
SHAPES = [(4, 8), (8, 8), (4, 4), (8, 4), (3, 4)]
METRICS = ("l1", "geodesic", "chord", "cosine")


def vectors(n, seed):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def learned(M, nbits, metric, geometry="lorentz"):
    """A codec with drawn weights and curvatures."""
    torch.manual_seed(M + nbits)
    codec = (
        AdditiveCodec(AdditiveConfig(d, M, nbits, D=6, normalization="unit"))
        if metric == "cosine"
        else HiHPQCodec(
            CodecConfig(d, M, nbits, D=6, metric=metric, normalization="unit", geometry=geometry)
        )
    )
    with torch.no_grad():
        codec.weight.normal_()
        codec.quantizer.codebooks.normal_(std=0.5)
        if metric != "cosine":
            codec.quantizer.log_c.uniform_(-1.5, 0.7)
    codec.is_trained = True
    return codec.eval()


def spread_ids(n):
    """Distinct ids with gaps, in no order, some beyond 32 bits."""
    return np.random.default_rng(7).permutation(n).astype(np.int64) * 10_000_019 + 5


def assert_same(export, codec, codes, ids, x, *, tolerance=2e-5):
    """FAISS and our scan agree; distances that are equal up to rounding come in any order."""
    tables = codec.tables(x)
    want, want_ids = scan.search(tables, codes, K + 1, ids=ids)
    values, found = export.index.search(export.queries(x), K)
    distances = export.distances(values)
    assert distances.dtype == np.float32
    np.testing.assert_allclose(distances, want[:, :K], rtol=1e-5, atol=tolerance)
    # Where the next distance is clearly larger, the same rows must have been found.
    clear = want[:, K] - want[:, K - 1] > tolerance + 1e-5 * np.abs(want[:, K])
    np.testing.assert_array_equal(np.sort(found[clear]), np.sort(want_ids[clear, :K]))
    if len(np.unique(codes, axis=0)) > 0.9 * len(codes):
        assert clear.mean() > 0.5
    # Everywhere each id that was found has the distance that FAISS gave it.
    order = np.argsort(ids)
    rows = order[np.searchsorted(ids[order], found)]
    np.testing.assert_array_equal(ids[rows], found)
    assert all(len(set(row)) == K for row in found.tolist())
    plain = unpack(codes, codec.M, codec.nbits).astype(np.int64)[rows]
    own = np.take_along_axis(tables[:, None].astype(np.float64), plain[..., None], 3).sum((2, 3))
    np.testing.assert_allclose(distances, own, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("M", "nbits"), SHAPES)
def test_export_finds_what_our_scan_finds(M, nbits, metric, tmp_path):
    codec = learned(M, nbits, metric)
    codes, ids, x = codec.encode(vectors(N, 1)), spread_ids(N), vectors(30, 2)
    choices = ("auto", "tables", "chord") if metric == "chord" else ("auto", "tables")
    for how in choices:
        export = to_faiss(codec, codes, ids, how=how)
        assert export.how == ("chord" if metric == "chord" and how != "tables" else "tables")
        wide = M * (6 + 1) if export.how == "chord" else M * 2**nbits
        assert export.index.d == wide == export.queries(x).shape[1]
        assert type(export.index) is faiss.IndexIDMap2
        assert_same(export, codec, codes, ids, x)
        path = tmp_path / f"{how}.faiss"
        write_faiss(export, path)
        again = FaissExport(faiss.read_index(str(path)), codec, export.how)
        assert again.index.ntotal == N
        assert_same(again, codec, codes, ids, x)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        path.unlink()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_export_by_the_chord_where_it_is_an_inner_product(geometry):
    codec = learned(4, 8, "chord", geometry)
    codes, ids, x = codec.encode(vectors(N, 1)), spread_ids(N), vectors(30, 2)
    possible = get_geometry(geometry).chord_is_inner_product
    for how in ("auto", "tables") + (("chord",) if possible else ()):
        export = to_faiss(codec, codes, ids, how=how)
        assert export.how == ("chord" if possible and how != "tables" else "tables")
        assert_same(export, codec, codes, ids, x)
    if not possible:
        with pytest.raises(
            InvalidInputError, match=rf"has the geometry '{geometry}'; .*pass how='tables'"
        ):
            to_faiss(codec, codes, ids, how="chord")


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize(("M", "nbits"), SHAPES)
def test_faiss_index_comes_over_and_goes_back(M, nbits, metric):
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    inner = faiss.IndexPQ(d, M, nbits, kind)
    x, queries = vectors(N, 1), vectors(30, 2)
    inner.train(x)
    ids = spread_ids(N)
    for outer in (faiss.IndexIDMap(inner), faiss.IndexIDMap2(inner)):
        outer.add_with_ids(x, ids)
        codec, codes, labels = from_faiss(outer)
        assert isinstance(codec, PQCodec)
        assert (codec.metric, codec.M, codec.nbits) == (metric, M, nbits)
        np.testing.assert_array_equal(labels, ids)
        np.testing.assert_array_equal(codes, inner.sa_encode(x))
        assert (codec.encode(x) == codes).all(1).mean() > 0.999
        export = to_faiss(codec, codes, labels)
        assert export.how == "plain"
        assert export.index.metric_type == kind
        assert_same(export, codec, codes, labels, queries)
        for mine, theirs in zip(
            export.index.search(export.queries(queries), K), outer.search(queries, K), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
        outer.reset()
    inner.add(x)
    np.testing.assert_array_equal(from_faiss(inner)[2], np.arange(N))
    inner.remove_ids(np.arange(0, N, 2))
    assert len(from_faiss(inner)[1]) == N // 2


def test_trained_index_without_vectors():
    inner = faiss.index_factory(d, "PQ4x4")
    inner.train(vectors(N, 1))
    codec, codes, ids = from_faiss(inner)
    assert codes.shape == (0, 2) and ids.shape == (0,)
    export = to_faiss(codec, codes, ids)
    values, found = export.index.search(export.queries(vectors(3, 2)), 2)
    assert (found == -1).all()
    assert (export.distances(values) == np.inf).all()


def test_half_a_byte_that_no_code_uses_becomes_zero():
    inner = faiss.IndexPQ(d, 3, 4)
    inner.train(vectors(N, 1))
    inner.add(vectors(20, 2))
    clean = faiss.vector_to_array(inner.codes).reshape(20, 2)
    dirty = clean.copy()
    dirty[:, 1] |= 0xF0
    faiss.copy_array_to_vector(dirty.ravel(), inner.codes)
    np.testing.assert_array_equal(from_faiss(inner)[1], clean)


@pytest.mark.parametrize("metric", ["chord", "l1"])
def test_results_that_are_missing_are_infinitely_far(metric):
    codec = learned(4, 8, metric)
    export = to_faiss(codec, codec.encode(vectors(3, 1)), [4, 9, 2])
    values, found = export.index.search(export.queries(vectors(5, 2)), 5)
    np.testing.assert_array_equal(np.sort(found), [[-1, -1, 2, 4, 9]] * 5)
    distances = export.distances(values)
    assert (distances[:, 3:] == np.inf).all()
    assert np.isfinite(distances[:, :3]).all()
    assert (np.diff(distances[:, :3]) >= 0).all()


def test_ids_reach_their_codes_in_faiss():
    codec = learned(4, 8, "chord")
    codes, ids = codec.encode(vectors(50, 1)), spread_ids(50)
    index = to_faiss(codec, codes, ids).index
    words = index.reconstruct(int(ids[17]))
    np.testing.assert_array_equal(words, faiss.downcast_index(index.index).sa_decode(codes)[17])
    assert index.remove_ids(ids[:20]) == 20
    assert index.ntotal == 30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "index.faiss", "index is of type str; expected a faiss.IndexPQ"),
        (lambda: faiss.IndexFlatL2(d), "index is of type IndexFlatL2"),
        (lambda: faiss.IndexIDMap(faiss.IndexFlatL2(d)), "index is of type IndexFlatL2"),
        (lambda: faiss.index_factory(d, "OPQ4,PQ4x8"), "with OPQMatrix, which cannot be conv"),
        (lambda: faiss.index_factory(d, "PCA12,PQ4x8"), "with PCAMatrix, which cannot be conv"),
        (lambda: faiss.index_factory(d, "L2norm,PQ4x8"), "NormalizationTransform, which cannot"),
        (lambda: faiss.index_factory(d, "RR8,RR8,PQ4x8"), "Matrix and RandomRotationMatrix, wh"),
        (lambda: skewed(), "rotation has rows whose products differ by up to 3"),
        (lambda: faiss.index_factory(d, "IVF4,PQ4x8"), "IVFPQ with codes of residuals, .*=False"),
        (lambda: faiss.index_factory(d, "IVF4,PQ4+4"), "index is of type IndexIVFPQR; expected"),
        (lambda: faiss.index_factory(d, "IVF4,SQ8"), "index is of type IndexIVFScalarQuantizer"),
        (lambda: plain_lists(faiss.index_factory(d, "IVF4,PQ4x8")), "IVFPQ .* not trained"),
        (lambda: faiss.index_factory(d, "PQ4x4fs"), "index is of type IndexPQFastScan"),
        (lambda: faiss.IndexPQ(d, 4, 8), "not trained; expected a trained one"),
        (lambda: trained(faiss.IndexPQ(d, 4, 6)), "with metric 1 and 6 bits, trained"),
        (lambda: trained(faiss.IndexPQ(d, 4, 8, faiss.METRIC_L1)), "with metric 2 and 8 bits"),
    ],
)
def test_other_indexes_are_refused(make, message):
    with pytest.raises(InvalidInputError, match=message):
        from_faiss(make())


def plain_lists(index):
    """An index of lists whose codes are those of vectors, and not of residuals."""
    faiss.extract_index_ivf(index).by_residual = False
    return in_any_order(index)


def in_any_order(index):
    """An index that does not order its codewords, which takes seconds and changes no distance."""
    inner = index
    while hasattr(inner, "index"):
        inner = faiss.downcast_index(inner.index)
    inner.do_polysemous_training = False
    return index


def trained(index):
    index.is_trained = True
    return index


def skewed():
    """A linear map that is no rotation: what is decoded could not be brought back by it."""
    transform = faiss.LinearTransform(d, d, False)
    faiss.copy_array_to_vector(2 * np.eye(d, dtype="f").ravel(), transform.A)
    inner = faiss.IndexPQ(d, 4, 4)
    inner.train(vectors(N, 1))
    return trained(faiss.IndexPreTransform(trained(transform), inner))


def decoded(index, codes):
    """What FAISS decodes codes to; the index with a map of ids inside has no method for it."""
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexIDMap):
        inner = faiss.downcast_index(inner.index)
    return index.chain.at(0).reverse_transform(inner.sa_decode(codes))


SLOW = pytest.param("OPQ4,PQ4x8", marks=pytest.mark.slow)


@pytest.mark.parametrize("text", [SLOW, "OPQ4_12,PQ4x4", "RR8,PQ4x8", "OPQ4,IDMap,PQ4x4"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_rotated_index_comes_over_and_goes_back(text, metric, tmp_path):
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    theirs = in_any_order(faiss.index_factory(d, text, kind))
    x, queries = vectors(N, 1), vectors(30, 2)
    theirs.train(x)
    outer = theirs if "IDMap" in text else faiss.IndexIDMap2(theirs)
    outer.add_with_ids(x, spread_ids(N))
    codec, codes, ids = from_faiss(outer)
    assert codec.config.rotation == theirs.chain.at(0).d_out
    assert (codec.encode(x) == codes).all(1).mean() > 0.999
    np.testing.assert_array_equal(ids, spread_ids(N))
    np.testing.assert_allclose(codec.decode(codes[:50]), decoded(theirs, codes[:50]), atol=1e-5)
    export = to_faiss(codec, codes, ids)
    assert_same(export, codec, codes, ids, queries)
    want, got = outer.search(queries, K), export.index.search(export.queries(queries), K)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-5, atol=1e-5)
    write_faiss(export, tmp_path / "index.faiss")
    again = faiss.read_index(str(tmp_path / "index.faiss"))
    np.testing.assert_array_equal(again.search(queries, K), got)


def grouped(n, seed):
    """Vectors around centres, so that their lists are uneven and no two distances are equal."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(30, d))
    return (centres[rng.integers(0, 30, n) ** 2 % 30] + 0.5 * rng.normal(size=(n, d))).astype("f")


def assert_same_lists(theirs, ours):
    """Two answers have the same distances, and the same ids where these are not nearly equal."""
    (D, I), (wanted, ids) = theirs, ours  # noqa: E741
    np.testing.assert_array_equal(np.isinf(D), np.isinf(wanted))
    np.testing.assert_array_equal(I == -1, np.isinf(wanted))
    np.testing.assert_allclose(D, wanted, rtol=1e-5, atol=2e-5)
    last = wanted.max(1, initial=-np.inf, where=np.isfinite(wanted))[:, None]
    clear = np.isfinite(wanted) & (wanted < last - 4e-5 - 2e-5 * np.abs(last))
    assert clear.sum() > len(clear)
    for row, some in enumerate(clear):
        assert set(ids[row, some]) <= set(I[row])


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("text", ["IVF8,PQ4x8", "RR12,IVF8,PQ4x4", "IDMap,IVF8,PQ3x4"])
def test_lists_without_residuals_come_over(text, metric):
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    theirs = plain_lists(faiss.index_factory(d, text, kind))
    x, queries, ids = grouped(N, 1), grouped(30, 2), spread_ids(N)
    theirs.train(x)
    theirs.add_with_ids(x, ids)
    codec, codes, labels = from_faiss(theirs)
    np.testing.assert_array_equal(np.sort(labels), np.sort(ids))
    assert (codec.encode(x)[np.argsort(ids)] == codes[np.argsort(labels)]).all(1).mean() > 0.999
    faiss.extract_index_ivf(theirs).nprobe = 8
    D, I = theirs.search(queries, 60)  # noqa: E741
    ours = HiHPQIndex.from_faiss(theirs)
    assert (ours.nlist, ours.ntotal) == (0, N)
    assert_same_lists((D if metric == "l2" else -D, I), ours.search(queries, 60))


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("rotation", [0, d, 12])
def test_cells_of_plain_codebooks_become_lists(metric, rotation, tmp_path):
    x, queries = grouped(N, 1), grouped(30, 2)
    index = HiHPQIndex(d, 4, metric=metric, rotation=rotation, device="cpu")
    index.train(x)
    index.add(x, ids=spread_ids(N))
    index.make_cells(20)
    index.write_faiss(tmp_path / "index.faiss")
    export = index.to_faiss()
    again = FaissExport(faiss.read_index(str(tmp_path / "index.faiss")), export.codec, export.how)
    for one in (export, again):
        lists = faiss.downcast_index(faiss.extract_index_ivf(one.index))
        assert (type(lists), lists.nlist, lists.nprobe) == (faiss.IndexIVFPQ, 20, 20)
        assert one.index.ntotal == N
        for nprobe in (20, 3, 1):
            lists.nprobe = nprobe
            D, I = one.index.search(one.queries(queries), 60)  # noqa: E741
            found = index.search(queries, 60, nprobe=nprobe)
            assert_same_lists((one.distances(D), I), found)
    assert np.isinf(found[0]).any()
    # They come back with the same codes.
    back = HiHPQIndex.from_faiss(export.index)
    np.testing.assert_array_equal(back.codes_of(index.ids), index.codes_of(index.ids))


@pytest.mark.parametrize(("ids", "message"), [([5, 6, 5], "5 twice"), ([5, -6, 7], "contain -6")])
def test_ids_that_arent_ids_of_ours_are_refused(ids, message):
    codec = learned(4, 8, "l1")
    with pytest.raises(InvalidInputError, match=message):
        to_faiss(codec, codec.encode(vectors(3, 1)), ids)
    inner = faiss.IndexPQ(d, 4, 4)
    inner.train(vectors(N, 1))
    outer = faiss.IndexIDMap(inner)
    outer.add_with_ids(vectors(3, 1), np.array(ids))
    with pytest.raises(InvalidInputError, match=message):
        from_faiss(outer)


def test_bad_input(tmp_path):
    codec = learned(4, 8, "l1")
    codes = codec.encode(vectors(3, 1))
    with pytest.raises(
        InvalidInputError, match="how is 'best'; expected 'auto', 'chord' or 'tables'"
    ):
        to_faiss(codec, codes, range(3), how="best")
    with pytest.raises(InvalidInputError, match=r"has the metric 'l1'; .*pass how='tables'"):
        to_faiss(codec, codes, range(3), how="chord")
    plain = PQCodec.from_codebooks(np.zeros((4, 256, 6)))
    with pytest.raises(InvalidInputError, match="a PQCodec is always converted as it is"):
        to_faiss(plain, codes, range(3), how="tables")
    with pytest.raises(InvalidInputError, match=r"expected uint8 of shape \(n, 4\)"):
        to_faiss(codec, codes[:, :3], range(3))
    with pytest.raises(InvalidInputError, match=r"ids have shape \(2,\)"):
        to_faiss(codec, codes, range(2))
    with pytest.raises(NotTrainedError, match=r"PQCodec\.fit"):
        to_faiss(HiHPQCodec(CodecConfig(d, 4)), codes, range(3))
    export = to_faiss(codec, codes, range(3))
    with pytest.raises(InvalidInputError, match="width 23"):
        export.queries(vectors(2, 1)[:, :23])
    with pytest.raises(InvalidInputError, match=r"there is no folder .*nowhere; create it first"):
        write_faiss(export, tmp_path / "nowhere" / "index.faiss")
