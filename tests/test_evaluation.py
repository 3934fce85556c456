"""Measures of retrieval against loops."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import knn, mean_average_precision, precision_at, recall_at


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


def loop_knn(x, y, k, metric):
    """D and I of each pair by itself, float64."""
    near, rows = [], []
    for a in x.astype(np.float64):
        costs = []
        for b in y.astype(np.float64):
            if metric == "l2":
                costs.append(((a - b) ** 2).sum())
            else:
                norms = np.sqrt((a**2).sum() * (b**2).sum()) if metric == "cosine" else 1
                costs.append(-(a * b).sum() / norms if norms else 0.0)
        order = np.argsort(costs, kind="stable")[:k]
        pad = k - len(order)
        near.append(np.concatenate([np.take(costs, order), np.full(pad, np.inf)]))
        rows.append(np.concatenate([order, np.full(pad, -1)]))
    cost = np.array(near).reshape(len(x), k)
    return (cost if metric == "l2" else -cost), np.array(rows, np.int64).reshape(len(x), k)


@given(
    nq=st.integers(0, 5),
    n=st.integers(0, 30),
    k=st.integers(1, 40),
    d=st.integers(2, 9),
    batch=st.integers(1, 40),
    metric=st.sampled_from(["cosine", "l2", "ip"]),
    seed=st.integers(0, 2**32),
)
def test_knn_is_the_loop(nq, n, k, d, batch, metric, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(nq, d)).astype("f"), rng.normal(size=(n, d)).astype("f")
    near, rows = knn(x, y, k, metric=metric, batch=batch)
    want_near, want_rows = loop_knn(x, y, k, metric)
    assert near.dtype == np.float32 and rows.dtype == np.int64
    np.testing.assert_array_equal(rows, want_rows)
    np.testing.assert_allclose(near, want_near, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("batch", [1, 7, 100])
def test_knn_orders_rows_of_equal_distance_by_number(metric, batch):
    """Also those whose distances differ in float64 and are equal in float32."""
    y = np.ones((100, 2), np.float32)
    y[:, 1] = np.linspace(0, -1e-3 if metric != "cosine" else -1e-6, 100)
    y[50:, 0] = -1
    x = np.array([[1000, 1], [-1000, 1]], np.float32)
    near, rows = knn(x, y, 100, metric=metric, batch=batch)
    order = np.lexsort((rows, near if metric == "l2" else -near), axis=1)
    np.testing.assert_array_equal(order, np.broadcast_to(np.arange(100), order.shape))
    assert len(np.unique(near)) < 100
    for k in (1, 30, 77):
        some = knn(x, y, k, metric=metric, batch=batch)
        np.testing.assert_array_equal(some[1], rows[:, :k])
        np.testing.assert_array_equal(some[0], near[:, :k])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_knn_of_the_longest_vectors_is_finite(metric):
    largest = np.finfo(np.float32).max
    x = np.array([[1e38, 0], [-1e38, 0]], np.float32)
    near, rows = knn(x, x, 3, metric=metric)
    assert rows.tolist() == [[0, 1, -1], [1, 0, -1]]
    if metric == "l2":
        np.testing.assert_array_equal(near, [[0, largest, np.inf]] * 2)
    else:
        np.testing.assert_array_equal(near, [[largest, -largest, -np.inf]] * 2)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_knn_of_many_queries_agrees_with_faiss(metric):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(700, 16)).astype("f"), rng.normal(size=(2000, 16)).astype("f")
    near, rows = knn(x, y, 10, metric=metric, batch=300)
    if metric == "cosine":
        x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    want_near, want_rows = faiss.knn(x, y, 10, kind)
    np.testing.assert_allclose(near, want_near, rtol=1e-4, atol=1e-5)
    assert (rows == want_rows).mean() > 0.999


def test_knn_far_from_the_origin():
    """Squared norms are 10^9 times the distances."""
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(400, 24)) + 30_000).astype(np.float32)
    x = y[:60] + rng.normal(size=(60, 24)).astype(np.float32) * np.float32(0.1)
    near, rows = knn(x, y, 5, metric="l2", batch=64)
    want_near, want_rows = loop_knn(x, y, 5, "l2")
    np.testing.assert_array_equal(rows, want_rows)
    np.testing.assert_allclose(near, want_near, rtol=1e-3)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_knn_of_zero_vectors(metric):
    y = np.array([[-1, 0], [0, 0], [2, 0]], np.float32)
    near, rows = knn([[0.5, 0], [0, 0]], y, 4, metric=metric)
    np.testing.assert_array_equal(rows, [[2, 1, 0, -1], [0, 1, 2, -1]])
    far = {"cosine": [1, 0, -1], "ip": [1, 0, -0.5]}[metric]
    np.testing.assert_array_equal(near, [[*far, -np.inf], [0, 0, 0, -np.inf]])


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_knn_of_equal_rows_finds_them(metric):
    y = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    near, rows = knn(np.eye(4), y, 5, metric=metric, batch=7)
    np.testing.assert_array_equal(rows, np.arange(20).reshape(4, 5))
    np.testing.assert_array_equal(near, np.full((4, 5), 0 if metric == "l2" else 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "l1"}, "metric is 'l1'; expected 'cosine', 'l2' or 'ip'"),
        ({"k": 0}, "k is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"database": np.zeros((4, 5))}, "database has width 5; expected 3"),
        ({"queries": np.zeros(3)}, r"queries has shape \(3,\)"),
        ({"database": np.full((4, 3), np.nan)}, "database has NaN"),
    ],
)
def test_knn_refuses(change, message):
    given = {"queries": np.zeros((2, 3)), "database": np.zeros((4, 3)), "k": 1} | change
    with pytest.raises(InvalidInputError, match=message):
        knn(**given)
