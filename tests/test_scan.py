"""Scan: ids, order and distances against a float64 brute force in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq import scan
from hyperpq.codes import pack
from hyperpq.scan import Part, reference


def brute_force(tables, parts, k):
    """One row at a time; ``parts`` hold codes one to a byte, ids and a mask."""
    nq, M, _ = tables.shape
    D = np.full((nq, k), np.inf, np.float32)
    I = np.full((nq, k), -1, np.int64)  # noqa: E741
    for q, table in enumerate(tables.astype(np.float64).tolist()):
        found = []
        for codes, ids, mask in parts:
            for row, label, taken in zip(codes.tolist(), ids.tolist(), mask.tolist(), strict=True):
                if taken:
                    total = 0.0
                    for m in range(M):
                        total += table[m][row[m]]
                    found.append((total, label))
        for rank, (total, label) in enumerate(sorted(found)[:k]):
            D[q, rank], I[q, rank] = np.float32(total), label
    return D, I


def make_tables(rng, kind, shape):
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(np.float32)
    if kind == "equal":
        return np.zeros(shape, np.float32)
    if kind == "huge":
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-30, 31, shape)).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, M, K = draw(st.integers(0, 3000)), draw(st.integers(1, 33)), draw(st.sampled_from([16, 256]))
    # The reference is plain Python: the work is bounded, the extremes of n and M are not.
    n, M = (n, M) if n * M <= 24000 else draw(st.sampled_from([(n, 8), (700, M)]))
    nq = draw(st.integers(0, 5 if n * M <= 6000 else 2))
    k = draw(st.one_of(st.integers(1, n + 5), st.integers(1, 12)))
    tables = make_tables(
        rng, draw(st.sampled_from(["normal", "ties", "equal", "huge"])), (nq, M, K)
    )
    codes = rng.integers(0, K if draw(st.booleans()) else 2, (n, M)).astype(np.uint8)
    ids = np.arange(n, dtype=np.int64)
    if draw(st.booleans()):
        ids = rng.permutation(n).astype(np.int64) * (2**62 // (n + 1)) + 7
    has_masks = draw(st.booleans())
    mask = rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.7])) if has_masks else np.ones(n, bool)
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    parts = list(zip(np.split(codes, cuts), np.split(ids, cuts), np.split(mask, cuts), strict=True))
    return tables, parts, k, has_masks, draw(st.sampled_from([1, 7, 64, 1 << 16]))


def packed(parts, K, has_masks):
    nbits = 8 if K == 256 else 4
    return [Part(pack(c, nbits), i, m if has_masks else None) for c, i, m in parts]


@given(cases())
@settings(max_examples=60)
def test_scan_is_the_brute_force(case):
    tables, parts, k, has_masks, block = case
    rows = packed(parts, tables.shape[2], has_masks)
    with pytest.MonkeyPatch.context() as patch:
        # Small blocks put many block borders into few rows.
        patch.setattr(reference, "_BLOCK", max(block, len(parts[0][0]) // 20))
        D, I = scan.search_parts(tables, rows, k, threads=1)  # noqa: E741
        again = scan.search_parts(tables, rows, k, threads=3)
    want_D, want_I = brute_force(tables, parts, k)
    assert D.dtype == np.float32
    assert I.dtype == np.int64
    np.testing.assert_array_equal(I, want_I)
    np.testing.assert_array_equal(D, want_D)
    np.testing.assert_array_equal(again[0], D)
    np.testing.assert_array_equal(again[1], I)


@pytest.mark.parametrize("threads", [None, 1, 2, 5, 64])
def test_threads_do_not_change_the_answer(threads):
    rng = np.random.default_rng(1)
    tables = make_tables(rng, "ties", (7, 4, 256))
    codes = rng.integers(0, 256, (2000, 4)).astype(np.uint8)
    want = brute_force(tables, [(codes, np.arange(2000), np.ones(2000, bool))], 25)
    D, I = scan.search(tables, codes, 25, threads=threads)  # noqa: E741
    np.testing.assert_array_equal(D, want[0])
    np.testing.assert_array_equal(I, want[1])


def test_order_of_parts_does_not_matter():
    rng = np.random.default_rng(2)
    tables = make_tables(rng, "ties", (3, 5, 16))
    codes = rng.integers(0, 16, (900, 5)).astype(np.uint8)
    ids = rng.permutation(900).astype(np.int64)
    parts = [Part(pack(codes[i::3], 4), ids[i::3]) for i in range(3)]
    D, I = scan.search_parts(tables, parts, 40)  # noqa: E741
    for order in ([2, 0, 1], [1, 2, 0]):
        again = scan.search_parts(tables, [parts[i] for i in order], 40)
        np.testing.assert_array_equal(again[0], D)
        np.testing.assert_array_equal(again[1], I)
    alone = scan.search(tables, pack(codes, 4), 40, ids=ids)
    np.testing.assert_array_equal(alone[1], I)


def test_near_sums_that_float32_cannot_tell_apart_are_ordered_in_float64():
    tables = np.zeros((1, 2, 256), np.float32)
    tables[0, 0] = 1e6
    tables[0, 1] = np.linspace(1e-3, 0, 256)
    codes = np.stack([np.zeros(256, np.uint8), np.arange(256, dtype=np.uint8)], 1)
    D, I = scan.search(tables, codes, 256)  # noqa: E741
    assert len(np.unique(D)) == 1
    np.testing.assert_array_equal(I[0], np.arange(256)[::-1])


def test_search_takes_ids_and_mask():
    tables = np.arange(256, dtype=np.float32).reshape(1, 1, 256)
    codes = np.array([[3], [1], [2], [1]], np.uint8)
    D, I = scan.search(  # noqa: E741
        tables,
        codes,
        4,
        ids=np.array([10, 40, 30, 20]),
        mask=np.array([True, True, False, True]),
    )
    np.testing.assert_array_equal(I, [[20, 40, 10, -1]])
    np.testing.assert_array_equal(D, np.array([[1, 1, 3, np.inf]], np.float32))


def test_inputs_are_left_alone():
    rng = np.random.default_rng(3)
    tables = make_tables(rng, "normal", (2, 3, 256))
    codes, mask = rng.integers(0, 256, (50, 3)).astype(np.uint8), rng.random(50) < 0.5
    for array in (tables, codes, mask):
        array.setflags(write=False)
    copies = tables.copy(), codes.copy(), mask.copy()
    scan.search(tables, codes, 5, mask=mask)
    for array, copy in zip((tables, codes, mask), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_one_kernel_is_in_use():
    assert list(scan.levels().values()).count("in use") == 1
