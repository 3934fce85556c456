"""Whether features are of the kind that a codec was learned from."""

import json

import numpy as np
import pytest

from hyperpq.training.fit import MIN_SUMMARY_ROWS, FitStatistics

D = 64


def kind(number, n, seed):
    """n features of a kind: noise around five directions of its own, beside what all have."""
    centers = np.random.default_rng(number).normal(size=(5, D))
    rng = np.random.default_rng(seed)
    around = 3 + centers[rng.integers(0, 5, n)] + 0.5 * rng.normal(size=(n, D))
    return (around * rng.uniform(1, 3, (n, 1))).astype(np.float32)


@pytest.mark.parametrize("n", [40, 200, 3000])
def test_more_of_the_same_kind_is_like_it(n):
    shares = [FitStatistics.of(kind(0, n, 1), seed=s).unlike(kind(0, 1000, 2)) for s in range(5)]
    assert np.mean(shares) < (0.1 if n == 40 else 0.04)


@pytest.mark.parametrize(("n", "least"), [(40, 0.3), (200, 0.9), (3000, 0.9)])
def test_another_kind_is_unlike(n, least):
    statistics = FitStatistics.of(kind(0, n, 1))
    assert statistics.unlike(kind(1, 500, 2)) > least


def test_the_share_of_another_kind_is_told():
    statistics = FitStatistics.of(kind(0, 2000, 1))
    mixed = np.concatenate([kind(0, 700, 2), kind(1, 300, 3)])
    assert statistics.unlike(mixed) == pytest.approx(0.3, abs=0.05)


def test_the_scale_of_features_does_not_matter():
    """Single features, and all of them, may be multiplied by anything."""
    statistics = FitStatistics.of(kind(0, 500, 1))
    x = kind(1, 200, 2)
    with np.errstate(all="raise"):
        assert statistics.unlike(x * np.float32(1e30)) == statistics.unlike(x)
    assert statistics.unlike(np.zeros((3, D), np.float32)) == 1


def test_a_few_features_have_no_summary():
    statistics = FitStatistics.of(kind(0, MIN_SUMMARY_ROWS - 1, 1))
    assert statistics.unlike(kind(1, 50, 2)) == 0
    assert FitStatistics.from_json(statistics.to_json()) == statistics


def test_equal_features_are_summarized():
    statistics = FitStatistics.of(np.repeat(kind(0, 1, 1), 50, 0))
    assert statistics.unlike(np.repeat(kind(0, 1, 1), 5, 0)) == 0
    assert statistics.unlike(kind(1, 50, 2)) == 1


def test_the_same_seed_gives_the_same_summary():
    x = kind(0, 300, 1)
    assert FitStatistics.of(x, seed=3) == FitStatistics.of(x, seed=3)
    assert FitStatistics.of(x, seed=3) != FitStatistics.of(x, seed=4)


def test_it_is_small_as_json_and_read_as_written():
    statistics = FitStatistics.of(kind(0, 500, 1))
    text = json.dumps(statistics.to_json())
    assert len(text) < 3000
    assert FitStatistics.from_json(json.loads(text)) == statistics


@pytest.mark.parametrize(
    "change",
    [
        {"far": "0.1"},
        {"far": float("nan")},
        {"far": True},
        {"far": 10**400},
        {"far": -3.0},
        {"more": 1},
        {"centroids": 3},
        {"centroids": "?"},
        {"centroids": "AAAA"},
        {"centroids": "AAAA" * 683},
        {"centroids": "/////" * 40},
    ],
)
def test_anything_else_is_refused(change):
    value = FitStatistics.of(kind(0, 500, 1)).to_json() | change
    with pytest.raises((ValueError, KeyError, TypeError)):
        FitStatistics.from_json(value)


@pytest.mark.parametrize("value", [None, 3, [], {}, "text"])
def test_what_is_no_summary_is_refused(value):
    with pytest.raises((ValueError, KeyError, TypeError)):
        FitStatistics.from_json(value)
