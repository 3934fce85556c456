"""Several vectors as one query: their mean, compared with its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.codec.feature_space import FeatureSpace
from hyperpq.errors import InvalidInputError, NotTrainedError

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 24)).astype("float32") * rng.uniform(0.1, 10, (5, 1)).astype("float32")
MEAN = rng.normal(size=24).astype("float32") / 3
WEIGHTS = [[1, 1, 1, 1, 1], [2, 0.5, 0, -0.25, -0.3], [1, 0, 0, 0, 0], [1e-3, 2e-3, 0, 0, -5e-4]]


def normalized(x, root, mean):
    """Features as the metric cosine compares them, and their lengths."""
    x = np.asarray(x, np.float64)
    x = np.copysign(np.sqrt(np.abs(x)), x) if root else x
    x = x if mean is None else x - mean.astype(np.float64)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / length, length


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("root, mean", [(True, MEAN), (True, None), (False, None), (False, MEAN)])
def test_directions_are_added(root, mean, weights):
    weights = np.array(weights, float)
    space = FeatureSpace("cosine", root, mean)
    found = space.combined(X, weights)
    assert (found.dtype, found.shape) == (np.float32, (24,))
    each, lengths = normalized(X, root, mean)
    wanted = weights @ each
    shares = np.abs(weights) / np.abs(weights).sum()
    direction, length = normalized(found, root, mean)
    np.testing.assert_allclose(direction, wanted / np.linalg.norm(wanted), atol=1e-6)
    np.testing.assert_allclose(length, shares @ lengths, rtol=1e-5)
    # Only the proportions of the weights count.
    np.testing.assert_allclose(space.combined(X, weights * 4), found, rtol=1e-6)


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_vectors_are_added_where_lengths_count(metric, weights):
    weights = np.array(weights, float)
    wanted = weights @ X.astype(np.float64) / weights[weights > 0].sum()
    np.testing.assert_allclose(FeatureSpace(metric).combined(X, weights), wanted, rtol=1e-5)


def test_what_cancels_out_is_no_query():
    space = FeatureSpace("cosine", True, MEAN)
    with pytest.raises(InvalidInputError, match="cancel each other out"):
        space.combined(X[[0, 0]], np.array([1.0, -1.0]))


@pytest.fixture(scope="module")
def index():
    x = np.random.default_rng(1).normal(size=(300, 24)).astype("float32")
    x[:150] += 2
    index = HiHPQIndex(24, M=4, device="cpu", features="float32")
    index.train(x, epochs=1)
    index.add(x)
    return index


def test_it_is_the_mean_of_the_tangent_vectors(index):
    """Before the smoothing, and up to the length: the head is linear in normalized features."""
    codec = index.codec
    space = codec.feature_space()
    x, weights = index.features_of(np.array([0, 7, 200])), np.array([0.5, 0.7, -0.2])
    head = codec.coder().head
    mean = np.zeros(24) if space.mean is None else space.mean
    each, _ = normalized(x, space.root, mean)
    matrix, bias = head._weight, head._bias
    tangent = matrix.left_product(each) + bias
    length = np.linalg.norm(weights @ each)
    wanted = (weights @ tangent - bias) / length + bias
    combined, _ = normalized(index.combine(x, weights), space.root, mean)
    np.testing.assert_allclose(
        (matrix.left_product(combined[None]) + bias)[0], wanted, atol=1e-5 * np.abs(wanted).max()
    )


def test_it_finds_what_is_between(index):
    """Nearer to both than either of them is to the other, and the same in any order and copy."""
    x = index.features_of(np.array([3, 8]))
    between = index.combine(x)
    np.testing.assert_array_equal(between, index.combine(x, [2, 2]))
    np.testing.assert_array_equal(between, index.view().combine(x.tolist()))
    np.testing.assert_allclose(index.combine(x[:1]), x[0], rtol=1e-5)
    space = index.codec.feature_space()
    near = space.distances(between, x)
    assert near.max() < space.distances(x[0], x[1:])[0]
    away = space.distances(index.combine(x, [1, -0.5]), x)
    assert away[1] > space.distances(x[0], x[1:])[0]
    assert index.search(between, 5)[1].shape == (1, 5)


@pytest.mark.parametrize(
    "x, weights, words",
    [
        (X[:2, :7], None, "expected"),
        (X[:2], [1], "expected 2 numbers"),
        (X[:2], [1, np.nan], "finite"),
        (X[:2], [0, -1], "at least one of them above 0"),
        (X[:2], ["a", "b"], "expected 2 numbers"),
        (X[:0], None, "above 0"),
    ],
)
def test_wrong_arguments(index, x, weights, words):
    with pytest.raises(InvalidInputError, match=words):
        index.combine(x, weights)


def test_an_index_that_is_not_trained():
    with pytest.raises(NotTrainedError):
        HiHPQIndex(24, M=4, device="cpu").combine(X)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"objective": "fidelity", "features": "int8"},
        {"objective": "balanced"},
        {"metric": "l2"},
        {"metric": "ip"},
    ],
)
def test_every_codec_has_a_mean(settings):
    """What it finds between two groups is of both; away from one it is of the other."""
    generator = np.random.default_rng(2)
    middles = np.eye(24)[:3] * 4
    x = np.concatenate([m + generator.normal(size=(100, 24)) for m in middles]).astype("float32")
    index = HiHPQIndex(24, M=4, device="cpu", **settings)
    index.train(x, **({} if "metric" in settings else {"epochs": 1}))
    index.add(x)
    between = index.combine(x[[0, 100]])
    _, I = index.search(between, 40)  # noqa: E741
    of = np.bincount(I[0] // 100, minlength=3)
    assert of[2] < 8
    assert min(of[0], of[1]) > of[2]
    away = index.combine(x[[0, 100]], [1, -0.5])
    assert (index.search(away, 40)[1][0] // 100 == 1).sum() < of[1]
