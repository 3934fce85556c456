"""Scan: ids, order and distances of every level against a brute force in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scan_cases import LARGEST, brute_force, cases, first, make_tables, packed

from hyperpq import scan
from hyperpq.codes import pack, row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.scan import CodeSegment, prepare, reference

LEVELS = [name for name in scan.levels() if not name.startswith("HYPERPQ")]


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setenv(scan.LEVEL_VARIABLE, request.param)
    return request.param


@given(cases())
@settings(max_examples=80, deadline=None)
def test_every_level_is_the_brute_force(case):
    tables, segments, k, has_masks = case
    rows = packed(segments, tables.shape[2], has_masks)
    found = brute_force(tables, segments)
    want = first(found, k)
    middle = found[0][len(found[0]) // 2][0] if found and found[0] else 0.0
    for level in LEVELS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(scan.LEVEL_VARIABLE, level)
            # Small blocks put many block borders into few rows.
            patch.setattr(reference, "_BLOCK", 1000)
            D, I = scan.search_segments(tables, rows, k, threads=1)  # noqa: E741
            lims, near_D, near_I = scan.range_search_segments(tables, rows, middle, threads=1)
        assert (D.dtype, I.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(I, want[1], err_msg=level)
        np.testing.assert_array_equal(D, want[0], err_msg=level)
        near = [[hit for hit in hits if hit[0] < middle] for hits in found]
        np.testing.assert_array_equal(lims, np.cumsum([0, *map(len, near)]), err_msg=level)
        flat = [hit for hits in near for hit in hits]
        np.testing.assert_array_equal(near_I, np.array([h[1] for h in flat], np.int64))
        np.testing.assert_array_equal(near_D, np.array([h[0] for h in flat], np.float32))


def big(M=5, K=256, n=150_001, nq=7, seed=0):
    """More than one thread is worth, in clusters and with ties."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, K, (40, M))[rng.integers(0, 40, n)]
    noise = rng.random((n, M)) < 0.3
    codes = np.where(noise, rng.integers(0, K, (n, M)), codes).astype(np.uint8)
    tables = np.round(rng.normal(size=(nq, M, K)) ** 2, 1).astype(np.float32)
    return tables, codes, rng


@pytest.mark.parametrize("K", [16, 256])
@pytest.mark.parametrize("nq", [1, 7])
def test_threads_and_levels_do_not_change_the_answer(level, K, nq):
    tables, codes, rng = big(K=K, nq=nq)
    codes = pack(codes, 8 if K == 256 else 4)
    tiled, mask = prepare(codes), rng.random(len(codes)) < 0.5
    for k in (1, 10, 300):
        want = reference.search_segments(tables, [CodeSegment(tiled)], k, threads=1)
        some = reference.search_segments(
            tables, [CodeSegment(tiled, None, row_bits(mask))], k, threads=1
        )
        for threads in (None, 1, 2, 5, 64):
            found = scan.search(tables, tiled, k, threads=threads)
            np.testing.assert_array_equal(found[1], want[1])
            np.testing.assert_array_equal(found[0], want[0])
            found = scan.search(tables, tiled, k, threads=threads, mask=mask)
            np.testing.assert_array_equal(found[1], some[1])
    radius = float(want[0][:, 200].max())
    want = reference.range_search_segments(tables, [CodeSegment(tiled)], radius)
    for threads in (1, 3):
        for one, other in zip(
            scan.range_search(tables, tiled, radius, threads=threads), want, strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_all_rows_in_order(level):
    tables, codes, _ = big(n=20_011, nq=2)
    tiled = prepare(codes)
    want = reference.search_segments(tables, [CodeSegment(tiled)], len(codes) + 3, threads=1)
    found = scan.search(tables, tiled, len(codes) + 3)
    np.testing.assert_array_equal(found[0], want[0])
    np.testing.assert_array_equal(found[1], want[1])
    assert (found[1][:, -3:] == -1).all()


def test_many_queries(level):
    tables, codes, _ = big(n=600, nq=1500)
    found = scan.search(tables, codes, 5)
    want = reference.search_segments(tables, [CodeSegment(prepare(codes))], 5, threads=1)
    np.testing.assert_array_equal(found[1], want[1])


def test_order_of_segments_does_not_matter(level):
    rng = np.random.default_rng(2)
    tables = make_tables(rng, "ties", (3, 5, 16))
    codes = rng.integers(0, 16, (9000, 5)).astype(np.uint8)
    ids = rng.permutation(9000).astype(np.int64)
    segments = [
        CodeSegment(prepare(pack(codes[i::3], 4)), np.ascontiguousarray(ids[i::3]))
        for i in range(3)
    ]
    D, I = scan.search_segments(tables, segments, 40)  # noqa: E741
    for order in ([2, 0, 1], [1, 2, 0]):
        again = scan.search_segments(tables, [segments[i] for i in order], 40)
        np.testing.assert_array_equal(again[0], D)
        np.testing.assert_array_equal(again[1], I)
    alone = scan.search(tables, pack(codes, 4), 40, ids=ids)
    np.testing.assert_array_equal(alone[1], I)


def equal_in_float32():
    """Tables and codes of 256 rows: each sum is below the one before, their float32 are equal."""
    tables = np.zeros((1, 2, 256), np.float32)
    tables[0, 0] = 1e6
    tables[0, 1] = np.linspace(1e-3, 0, 256)
    codes = np.stack([np.zeros(256, np.uint8), np.arange(256, dtype=np.uint8)], 1)
    return tables, codes


def test_sums_that_float32_cannot_tell_apart_are_ordered_by_id(level):
    tables, codes = equal_in_float32()
    for k in (1, 9, 256):
        D, I = scan.search(tables, codes, k)  # noqa: E741
        np.testing.assert_array_equal(D, np.full((1, k), 1e6, np.float32))
        np.testing.assert_array_equal(I[0], np.arange(k))
    # Ids that fall from segment to segment, and within one.
    segments = [
        CodeSegment(prepare(codes[rows]), np.arange(1000, 744, -1)[rows])
        for rows in (slice(0, 100), slice(100, 101), slice(101, 256))
    ]
    D, I = scan.search_segments(tables, segments, 200)  # noqa: E741
    np.testing.assert_array_equal(I[0], np.arange(745, 945))


@pytest.mark.parametrize("K", [16, 256])
@pytest.mark.parametrize("n_segments", [1, 5])
def test_pruning_keeps_rows_that_tie_in_float32(level, K, n_segments):
    """Rows above the k-th sum in float64 that are equal to it in float32 and have a lower id."""
    rng = np.random.default_rng(8)
    tables = make_tables(rng, "float32 ties", (2, 6, K))
    codes = rng.integers(0, K, (60_000, 6)).astype(np.uint8)
    nbits, ids = 8 if K == 256 else 4, np.arange(60_000)[::-1].copy()
    segments = [
        CodeSegment(prepare(pack(some, nbits)), np.ascontiguousarray(labels))
        for some, labels in zip(
            np.array_split(codes, n_segments), np.array_split(ids, n_segments), strict=True
        )
    ]
    totals = tables.astype(np.float64)[:, np.arange(6), codes].sum(-1)
    for q, distances in enumerate(totals.astype(np.float32)):
        assert len(np.unique(distances)) < 50
        order = np.lexsort((ids, distances))
        for k in (1, 10, 3000):
            D, I = scan.search_segments(tables, segments, k)  # noqa: E741
            np.testing.assert_array_equal(D[q], distances[order[:k]])
            np.testing.assert_array_equal(I[q], ids[order[:k]])


def near_by_code(rng, kind, n, M=6, nq=3):
    """Tables whose entries follow the codes, as those of grouped codewords, or do not."""
    codes = rng.integers(0, 256, (n, M)).astype(np.uint8)
    words = np.arange(256, dtype=np.float32)
    if kind == "no groups":
        words = rng.permutation(words)
    if kind == "half":  # Few columns decide; the others have no groups.
        words = np.where(np.arange(256) < 128, words, rng.permutation(words)).astype(np.float32)
    at = rng.integers(0, 256, (nq, M, 1)).astype(np.float32)
    tables = ((words - at) ** 2 / 100).astype(np.float32)
    if kind == "clusters":
        centres = rng.integers(0, 256, (30, M))
        codes = np.clip(centres[rng.integers(0, 30, n)] + rng.integers(-3, 4, (n, M)), 0, 255)
        codes = codes.astype(np.uint8)
    return tables, codes


@pytest.mark.parametrize("kind", ["groups", "no groups", "half", "clusters"])
@pytest.mark.parametrize("n", [900, 9_001, 40_000])
def test_coarse_tables_lose_no_row(level, kind, n):
    """Data that coarse tables exclude nearly all of, and data that they exclude nothing of."""
    rng = np.random.default_rng(n)
    tables, codes = near_by_code(rng, kind, n)
    tiled, mask = prepare(codes), rng.random(n) < 0.3
    totals = tables.astype(np.float64)[:, np.arange(6), codes].sum(-1).astype(np.float32)
    for rows in (np.arange(n), np.flatnonzero(mask)):
        orders = [np.lexsort((rows, distances[rows])) for distances in totals]
        for k in (1, 10, 500):
            given = None if len(rows) == n else mask
            D, I = scan.search(tables, tiled, k, mask=given)  # noqa: E741
            for q, order in enumerate(orders):
                best = rows[order[:k]]
                np.testing.assert_array_equal(I[q, : len(best)], best)
                np.testing.assert_array_equal(D[q, : len(best)], totals[q, best])
    radius = float(np.sort(totals[0])[n // 3])
    ids = scan.range_search(tables[:1], tiled, radius)[2]
    np.testing.assert_array_equal(np.sort(ids), np.flatnonzero(totals[0] < np.float32(radius)))


@pytest.mark.parametrize("masked", [False, True])
def test_a_sample_that_misleads_loses_no_row(level, masked):
    """The nearest rows lie where a sample is taken, so that its threshold is too low."""
    n, k = 64 * 1000, 100
    taken = 1000 * np.arange(25) // 25
    codes = np.full((n, 2), 9, np.uint8)
    codes[:, 1] = np.arange(n) % 251
    near = 64 * taken[:20] + 5
    codes[near] = 0
    tables = np.zeros((1, 2, 256), np.float32)
    tables[0, 0, 9] = 1000
    tables[0, 1] = np.arange(256)
    mask = np.arange(n) % 64 < 40 if masked else None
    D, I = scan.search(tables, codes, k, mask=mask)  # noqa: E741
    totals = tables[0, 0][codes[:, 0]] + tables[0, 1][codes[:, 1]]
    rows = np.arange(n) if mask is None else np.flatnonzero(mask)
    want = rows[np.lexsort((rows, totals[rows]))[:k]]
    np.testing.assert_array_equal(I[0], want)
    np.testing.assert_array_equal(D[0], totals[want])
    assert set(near) <= set(I[0])


@pytest.mark.parametrize("kind", ["normal", "float32 ties", "offset", "squares"])
def test_range_search_with_radii_taken_from_distances(level, kind):
    """The rows within a radius are those of a full search whose distance is below it."""
    rng = np.random.default_rng(4)
    tables = make_tables(rng, kind, (10, 5, 16))
    codes = prepare(pack(rng.integers(0, 16, (3000, 5)).astype(np.uint8), 4))
    D, I = scan.search(tables, codes, 3000)  # noqa: E741
    for q in range(10):
        for rank in rng.choice(3000, 25, replace=False).tolist():
            radius = D[q, rank]
            lims, near, ids = scan.range_search(tables[q : q + 1], codes, radius)
            below = D[q] < radius
            assert lims.tolist() == [0, below.sum()]
            assert not (near >= radius).any()
            np.testing.assert_array_equal(near, D[q][below])
            np.testing.assert_array_equal(ids, I[q][below])


def test_a_radius_is_compared_as_float32(level):
    """0.7 is above the float32 nearest to it; numpy's ``D < 0.7`` compares float32, too."""
    tables = np.zeros((1, 1, 256), np.float32)
    tables[0, 0, :3] = [0.7, np.nextafter(np.float32(0.7), np.float32(0)), 0.8]
    codes = np.array([[0], [1], [2]], np.uint8)
    assert float(tables[0, 0, 0]) < 0.7
    for radius in (0.7, np.float64(0.7), np.float32(0.7)):
        assert scan.range_search(tables, codes, radius)[2].tolist() == [1]
    for radius in (1e39, 10**39, np.inf):
        assert scan.range_search(tables, codes, radius)[2].tolist() == [1, 0, 2]
    for radius in (-1e39, -np.inf, 0):
        assert scan.range_search(tables, codes, radius)[2].tolist() == []


def test_a_sum_beyond_float32_is_a_result(level):
    """Infinity means that there is no row, so the distance of a row is finite."""
    tables = np.zeros((1, 2, 256), np.float32)
    tables[0, :, :3] = [3e38, LARGEST, -LARGEST]
    codes = np.array([[1, 1], [0, 0], [2, 2], [9, 1], [9, 9]], np.uint8)
    D, I = scan.search(tables, codes, 7)  # noqa: E741
    np.testing.assert_array_equal(I, [[2, 4, 0, 1, 3, -1, -1]])
    largest = [-LARGEST, 0, LARGEST, LARGEST, LARGEST, np.inf, np.inf]
    np.testing.assert_array_equal(D[0], np.float32(largest))
    for k in (1, 2, 3):
        np.testing.assert_array_equal(scan.search(tables, codes, k)[1], I[:, :k])
    _, near, ids = scan.range_search(tables, codes, np.inf)
    np.testing.assert_array_equal(ids, [2, 4, 0, 1, 3])
    assert np.isfinite(near).all()
    assert scan.range_search(tables, codes, LARGEST)[2].tolist() == [2, 4]
    assert scan.range_search(tables, codes, -LARGEST)[2].tolist() == []


def test_a_k_th_distance_at_the_end_of_float32_rules_no_row_out(level):
    """More rows than a sample, so that there is a threshold from the start."""
    tables = np.full((1, 2, 256), 3e38, np.float32)
    tables[0, 1, 7] = 0
    codes = np.full((70_000, 2), 1, np.uint8)
    codes[69_000:, 1] = 7
    ids = np.arange(70_000)[::-1].copy()
    D, I = scan.search(tables, codes, 2000, ids=ids)  # noqa: E741
    np.testing.assert_array_equal(I[0], np.arange(2000))
    np.testing.assert_array_equal(D[0], np.repeat(np.float32([3e38, LARGEST]), 1000))


def test_search_takes_ids_and_mask(level):
    tables = np.arange(256, dtype=np.float32).reshape(1, 1, 256)
    codes = np.array([[3], [1], [2], [1]], np.uint8)
    for mask in (np.array([True, True, False, True]), np.array([0b1011], np.uint64)):
        D, I = scan.search(  # noqa: E741
            tables, codes, 4, ids=np.array([10, 40, 30, 20]), mask=mask
        )
        np.testing.assert_array_equal(I, [[20, 40, 10, -1]])
        np.testing.assert_array_equal(D, np.array([[1, 1, 3, np.inf]], np.float32))


def test_range_search_leaves_the_radius_itself_out(level):
    tables = np.arange(256, dtype=np.float32).reshape(1, 1, 256)
    codes = np.array([[3], [1], [2], [1]], np.uint8)
    lims, D, I = scan.range_search(tables, codes, 3.0)  # noqa: E741
    assert (lims.tolist(), D.tolist(), I.tolist()) == ([0, 3], [1, 1, 2], [1, 3, 2])
    assert scan.range_search(tables, codes, -1.0)[0].tolist() == [0, 0]
    assert len(scan.range_search(tables, codes, np.inf)[2]) == 4
    assert len(scan.range_search(tables[:0], codes, 1.0)[2]) == 0


def test_inputs_are_left_alone(level):
    rng = np.random.default_rng(3)
    tables = make_tables(rng, "normal", (2, 3, 256))
    codes, mask = rng.integers(0, 256, (50, 3)).astype(np.uint8), rng.random(50) < 0.5
    for array in (tables, codes, mask):
        array.setflags(write=False)
    copies = tables.copy(), codes.copy(), mask.copy()
    scan.search(tables, codes, 5, mask=mask)
    for array, copy in zip((tables, codes, mask), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_strided_tables_are_read_right(level):
    tables, codes, _ = big(n=900, nq=4)
    want = scan.search(np.ascontiguousarray(tables[::2]), codes, 5)[1]
    np.testing.assert_array_equal(scan.search(tables[::2], codes, 5)[1], want)
    fortran = np.asfortranarray(codes)
    np.testing.assert_array_equal(scan.search(tables[::2], fortran, 5)[1], want)


def test_one_kernel_is_in_use(level):
    used = [name for name, state in scan.levels().items() if state.startswith("in use")]
    assert used == [level]


def test_the_package_was_compiled():
    assert LEVELS[-2:] == ["portable", "numpy"]


TABLES = np.zeros((1, 2, 256), np.float32)
CODES = np.zeros((3, 2), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TABLES.astype(np.float64), CODES, 1), "tables are float64"),
        ((TABLES[0], CODES, 1), "expected float32 \\(nq, M, K\\)"),
        ((TABLES[:, :, :100], CODES, 1), "K 256 or 16"),
        ((TABLES * np.nan, CODES, 1), "NaN or infinity"),
        ((TABLES, CODES[:, :1], 1), "codes have 1 bytes a row; expected 2"),
        ((TABLES, CODES.astype(int), 1), "codes are int64"),
        ((TABLES, CODES, 0), "k is 0"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        scan.search(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": [1, 2]}, "ids have shape \\(2,\\); expected \\(3,\\)"),
        ({"mask": np.ones(2, bool)}, "expected bool \\(3,\\) or its bits"),
        ({"mask": [1, 1, 1]}, "mask is int64"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        scan.search(TABLES, CODES, 1, **options)


@pytest.mark.parametrize(
    ("name", "message"), [("sse9", "is not a level"), ("neon", "does not run")]
)
def test_an_unknown_level_is_named(monkeypatch, name, message):
    if name in LEVELS:
        pytest.skip("runs here")
    monkeypatch.setenv(scan.LEVEL_VARIABLE, name)
    with pytest.raises(InvalidInputError, match=f"{name}.*{message}.*portable, numpy"):
        scan.search(TABLES, CODES, 1)
    assert scan.levels()[scan.LEVEL_VARIABLE]


def test_nan_is_no_radius():
    with pytest.raises(InvalidInputError, match="radius is NaN"):
        scan.range_search(TABLES, CODES, np.nan)


def test_without_the_compiled_module_numpy_scans(monkeypatch):
    monkeypatch.setattr(scan, "_native", None)
    monkeypatch.delenv("HYPERPQ_SCAN_LEVEL", raising=False)
    assert "native kernels were not compiled" in scan.levels()["numpy"]
    np.testing.assert_array_equal(scan.search(TABLES, CODES, 3)[1], [[0, 1, 2]])
