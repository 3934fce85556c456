"""Answers of an index: within a radius, and merged from indexes of parts of the rows."""

from __future__ import annotations

import numpy as np
import pytest
from index_tools import KINDS, assert_same, make_x

import hyperpq

X, QUERIES = make_x(900, 5), make_x(20, 6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_no_row_at_the_radius_is_returned(make, kind):
    """A third of the radii taken from `D` returned the row at the radius, or rows above it."""
    index = make(X, kind=kind)
    D, I = index.search(QUERIES, index.ntotal)  # noqa: E741
    rng = np.random.default_rng(0)
    for _ in range(170):  # 1,020 radii in all
        q, rank = rng.integers(len(QUERIES)), rng.integers(index.ntotal)
        radius = D[q, rank]
        lims, near, ids = index.range_search(QUERIES[q : q + 1], radius)
        assert not (near >= radius).any()
        below = D[q] < radius
        assert lims.tolist() == [0, below.sum()]
        assert_same((near, ids), (D[q][below], I[q][below]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_merged_answers_of_two_halves_are_those_of_the_whole(make, kind, tmp_path):
    ids = np.random.default_rng(1).permutation(5000)[:900]
    whole, halves = make(X, ids, kind=kind), [make(kind=kind), make(kind=kind)]
    halves[1].save(tmp_path / "half")
    halves[0].add(X[::2], ids[::2])
    for rows in (slice(1, 600, 2), slice(601, None, 2)):
        halves[1].add(X[rows], ids[rows])
    for k in (1, 10, 449, 900, 1000):
        want = whole.search(QUERIES, k)
        assert_same(hyperpq.merge_results([h.search(QUERIES, k) for h in halves], k), want)
    radius = np.median(want[0])
    want_lims, *want_rest = whole.range_search(QUERIES, radius)
    lims, *rest = hyperpq.merge_range_results([h.range_search(QUERIES, radius) for h in halves])
    np.testing.assert_array_equal(lims, want_lims)
    assert_same(rest, want_rest)
    # Equal distances never have falling ids.
    D, I = whole.search(QUERIES, 900)  # noqa: E741
    assert ((np.diff(D, axis=1) > 0) | (np.diff(I, axis=1) > 0)).all()
    assert (np.diff(D, axis=1) == 0).any()
