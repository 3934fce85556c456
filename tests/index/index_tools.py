"""What the tests of indexes share: vectors, a brute-force search, and a check of refusals."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq import HyperPQError
from hyperpq.codes import unpack
from hyperpq.errors import InvalidInputError
from hyperpq.training.recipe import Recipe

D_IN = 12
SMALL = Recipe().replace(width=12, subspaces=4, epochs=2, warmup_epochs=1, batch=64, levels=(20, 5))
KINDS = [
    (3, 8, "l1"),
    (3, 8, "geodesic"),
    (3, 8, "chord"),
    (3, 4, "l1"),
    (4, 4, "chord"),
    (1, 8, "l1"),
]


def make_x(n=300, seed=0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(25, D_IN)) * 2
    return (centers[rng.integers(0, 25, n)] + rng.normal(size=(n, D_IN))).astype(np.float32)


X, QUERIES = make_x(), make_x(7, seed=1)


def brute_force(index, queries, x, ids, k):
    """Sum of table entries of each row in float64, rounded to float32, by (distance, id)."""
    tables = index.codec.tables(queries).astype(np.float64)
    codes = unpack(index.encode(x), index.M, index.nbits)
    D = np.full((len(queries), k), np.inf, np.float32)
    I = np.full((len(queries), k), -1, np.int64)  # noqa: E741
    for q in range(len(queries)):
        rows = []
        for row, label in zip(codes, np.asarray(ids).tolist(), strict=True):
            total = 0.0
            for m in range(index.M):
                total += tables[q, m, row[m]]
            rows.append((np.float32(total), label))
        for rank, (distance, label) in enumerate(sorted(rows)[:k]):
            D[q, rank], I[q, rank] = distance, label
    return D, I


def assert_same(found, want):
    assert found[0].dtype == np.float32
    assert found[1].dtype == np.int64
    np.testing.assert_array_equal(found[1], want[1])
    np.testing.assert_array_equal(found[0], want[0])


def with_value(value):
    x = X.copy()
    x[3, 1] = value
    return x


class Unchanged:
    """Checks that a block raised one clear error and left an index as it was."""

    def __init__(self, index, kind=InvalidInputError, match=""):
        self.index, self.raises = index, pytest.raises(kind, match=match)

    def state(self):
        return self.index.ntotal, self.index.next_id, *self.index.search(QUERIES, 12)

    def __enter__(self):
        self.before = self.state()
        self.caught = self.raises.__enter__()
        return self.caught

    def __exit__(self, *error):
        swallowed = self.raises.__exit__(*error)
        assert isinstance(self.caught.value, HyperPQError)
        assert "\n" not in str(self.caught.value)
        for old, new in zip(self.before, self.state(), strict=True):
            np.testing.assert_array_equal(old, new)
        return swallowed
