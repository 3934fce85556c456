"""Searches of some cells alone, at every level, against a brute force of the rows in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import KINDS, brute_force, first, make_tables

from hyperpq import scan
from hyperpq.codes import pack, row_bits
from hyperpq.errors import InvalidInputError
from hyperpq.scan import CodeSegment, prepare

LEVELS = [name for name, use in scan.levels().items() if use in ("in use", "available")]


@st.composite
def grouped(draw):
    """Tables, segments that are grouped by cell, cells of each query, and the brute force."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nq, M, nbits = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.sampled_from([8, 4]))
    nlist, K = draw(st.integers(1, 12)), 1 << nbits
    tables = make_tables(rng, draw(st.sampled_from(KINDS)), (nq, M, K))
    segments, plain = [], []
    for number in range(draw(st.integers(0, 3))):
        sizes = rng.integers(0, draw(st.sampled_from([2, 70, 300])), nlist)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        n = int(starts[-1])
        codes = rng.integers(0, K, (n, M)).astype(np.uint8)
        ids = rng.permutation(n).astype(np.int64) + 10**6 * number
        mask = rng.random(n) < draw(st.sampled_from([1.0, 0.9, 0.02]))
        bits = None if mask.all() else row_bits(mask)
        segments.append(CodeSegment(prepare(pack(codes, nbits)), ids, bits, starts))
        plain.append((codes, ids, mask, np.repeat(np.arange(nlist), sizes)))
    n_probes = draw(st.integers(1, nlist))
    cells = np.stack([rng.permutation(nlist)[:n_probes] for _ in range(nq)])
    found = [
        brute_force(
            tables[q : q + 1], [(c, i, m & np.isin(of, cells[q])) for c, i, m, of in plain]
        )[0]
        for q in range(nq)
    ]
    return tables, segments, cells, found


@pytest.mark.parametrize("level", LEVELS)
def test_the_nearest_rows_of_the_cells_are_found(level, monkeypatch):
    monkeypatch.setenv(scan.LEVEL_VARIABLE, level)

    @settings(max_examples=25, deadline=None)
    @given(case=grouped(), k=st.integers(1, 40), threads=st.integers(1, 3), rank=st.integers(0, 30))
    def check(case, k, threads, rank):
        tables, segments, cells, found = case
        D, I = scan.search_cells(tables, segments, cells, k, threads=threads)  # noqa: E741
        expected = first(found, k)
        np.testing.assert_array_equal(D, expected[0], strict=True)
        np.testing.assert_array_equal(I, expected[1], strict=True)
        radius = found[0][min(rank, len(found[0]) - 1)][0] if found[0] else 0.0
        lims, D, I = scan.range_search_cells(tables, segments, cells, radius)  # noqa: E741
        assert lims[0] == 0
        assert lims[-1] == len(D) == len(I)
        for q, hits in enumerate(found):
            some = slice(lims[q], lims[q + 1])
            near = [hit for hit in hits if hit[0] < np.float32(radius)]
            assert list(zip(D[some].tolist(), I[some].tolist(), strict=True)) == near

    check()


@pytest.mark.parametrize("level", LEVELS)
def test_queries_without_cells_find_nothing(level, monkeypatch):
    monkeypatch.setenv(scan.LEVEL_VARIABLE, level)
    segment = CodeSegment(prepare(np.zeros((10, 2), np.uint8)), None, None, np.array([0, 5, 10]))
    tables, cells = np.zeros((3, 2, 256), np.float32), np.zeros((3, 0), np.int64)
    D, I = scan.search_cells(tables, [segment], cells, 4)  # noqa: E741
    assert np.isposinf(D).all()
    assert (I == -1).all()
    assert scan.range_search_cells(tables, [segment], cells, 1.0)[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("starts", "cells"),
    [
        ([0, 5, 11], [[1]]),  # beyond the rows
        ([0, 7, 5], [[1]]),  # falling
        ([-1, 5, 10], [[0]]),
        ([0, 5, 10], [[2]]),  # no such cell
        ([0, 5, 10], [[-1]]),
        ([0, 5, 10], [[0], [1]]),  # cells of two queries
    ],
)
def test_cells_that_leave_the_rows_are_refused(starts, cells):
    if scan.compiled() is None:
        pytest.skip("numpy checks its own indices")
    segment = CodeSegment(prepare(np.zeros((10, 2), np.uint8)), None, None, np.array(starts))
    with pytest.raises(ValueError, match=r"starts|cells"):
        scan.search_cells(
            np.zeros((1, 2, 256), np.float32), [segment], np.array(cells, np.int64), 3
        )


@pytest.mark.parametrize("level", ["numpy", None])
@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (np.array([[2]]), "cells are 2 to 2; expected 0 to 1"),
        (np.array([[0, -1]]), "cells are -1 to 0"),
        (np.array([[0], [1]]), r"cells are int64 \(2, 1\); expected integers \(1, n\)"),
        (np.array([0]), r"cells are int64 \(1,\)"),
        (np.array([[0.5]]), "cells are float64"),
    ],
)
def test_the_error_names_the_cells(level, cells, found, monkeypatch):
    if level is not None:
        monkeypatch.setenv("HYPERPQ_SCAN_LEVEL", level)
    codes = prepare(np.zeros((10, 2), np.uint8))
    segments = [CodeSegment(codes, None, None, np.array([0, 5, 10]))]
    tables = np.zeros((1, 2, 256), np.float32)
    with pytest.raises(InvalidInputError, match=found):
        scan.search_cells(tables, segments, cells, 3)
    with pytest.raises(InvalidInputError, match=found):
        scan.range_search_cells(tables, segments, cells, 3.0)
