"""Sizes of cells: imbalance by its definition, and when cells are outgrown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from index_tools import X

from hyperpq import HiHPQIndex
from hyperpq.index.cell_stats import CellStats


@given(arrays(np.int64, st.integers(1, 50), elements=st.integers(0, 10**6)))
def test_imbalance_is_the_mean_over_rows(sizes):
    stats = CellStats(sizes)
    assert stats.n == sizes.sum()
    assert 1 - 1e-9 <= stats.imbalance <= len(sizes) + 1e-9
    if stats.n:
        of_rows = np.average(sizes, weights=sizes)
        assert stats.imbalance == pytest.approx(of_rows / sizes.mean())
    even = CellStats(np.full(len(sizes), 7))
    assert even.imbalance == pytest.approx(1)


@pytest.mark.parametrize(
    ("sizes", "is_outgrown"),
    [
        ([1000] * 16, False),
        ([2500] * 16, False),
        ([5000] * 16, True),
        ([16_000] + [0] * 15, True),
        ([4000] * 4 + [0] * 12, True),
        ([5000] + [500] * 15, False),
        ([500], False),
        ([0] * 8, False),
    ],
)
def test_cells_are_outgrown_by_rows_in_one_cell(sizes, is_outgrown):
    assert CellStats(np.array(sizes)).is_outgrown == is_outgrown


def test_sizes_are_those_of_all_segments(trained):
    index = HiHPQIndex.from_codec(trained["l2"].codec, device="cpu")
    index.add(X[:200])
    index.make_cells(5)
    index.add(X[200:])
    rows = index.collection.view()
    cells = rows.held.cells.numbers_of(index.encode(X), rows.held.coder).numbers
    stats = CellStats.of(rows.segments, 5)
    np.testing.assert_array_equal(stats.sizes, np.bincount(cells, minlength=5))
