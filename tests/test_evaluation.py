"""Measures of retrieval against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.evaluation import mean_average_precision, precision_at, recall_at


def loop_map(relevant, k):
    total = 0.0
    for row in relevant:
        hits, summed = 0, 0.0
        for rank, hit in enumerate(row[:k], 1):
            if hit:
                hits += 1
                summed += hits / rank
        total += summed / hits if hits else 0.0
    return total / len(relevant)


matrices = st.tuples(
    st.integers(1, 6), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32)
).map(lambda t: np.random.default_rng(t[3]).random(t[:2]) < t[2])


@given(matrices, st.one_of(st.none(), st.integers(1, 40)))
def test_map_is_the_loop(relevant, k):
    want = loop_map(relevant.tolist(), k)
    assert mean_average_precision(relevant, k) == pytest.approx(want, abs=1e-12)


def test_map_of_known_lists():
    hits = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)
    assert mean_average_precision(hits) == pytest.approx((1 + 2 / 3) / 2 / 2)
    # AP divides by the hits inside the top k, not by all relevant ones.
    assert mean_average_precision(hits, 2) == pytest.approx(1 / 2)
    assert mean_average_precision(np.ones((3, 5), bool)) == 1


@given(matrices, st.integers(1, 30))
def test_precision_is_the_loop(relevant, k):
    k = min(k, relevant.shape[1])
    want = sum(sum(row[:k]) / k for row in relevant.tolist()) / len(relevant)
    assert precision_at(relevant, k) == pytest.approx(want, abs=1e-12)


@given(
    nq=st.integers(1, 5),
    a=st.integers(1, 20),
    b=st.integers(1, 10),
    seed=st.integers(0, 2**32),
)
def test_recall_is_the_loop(nq, a, b, seed):
    rng = np.random.default_rng(seed)
    found = np.stack([rng.permutation(25)[:a] for _ in range(nq)])
    found[:, rng.integers(0, a + 1) :] = -1
    truth = np.stack([rng.permutation(25)[:b] for _ in range(nq)])
    want = np.mean(
        [sum(t in f for t in ts) / b for f, ts in zip(found.tolist(), truth.tolist(), strict=True)]
    )
    assert recall_at(found, truth) == pytest.approx(want, abs=1e-12)
