"""Products of kept features: compiled kernels of every level against numpy, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq import scan
from hyperpq.codec.feature_codec import KINDS, FeatureCodec
from hyperpq.codec.feature_products import FeatureForm, Pairs, fixed_point, products
from hyperpq.codec.feature_space import FeatureSpace

LEVELS = [name for name in scan._available() if name != "numpy"]


def make(d, kind, seed=0):
    """Features with zeros, equal values and other scales, as they are kept; and queries."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, d)).astype(np.float32) * np.float32(10) ** rng.integers(-3, 3, (40, 1))
    x[3], x[4], x[5, ::2] = 0, 2, 0
    kept_by = FeatureCodec(kind, d)
    features = kept_by.encode(x)
    rows = np.sort(rng.integers(0, 40, 100))
    several = [
        Pairs(features, rows, rng.integers(0, 5, 100)),
        Pairs(features[:0], rows[:0], rows[:0]),
        Pairs(features[10:], rows[:7] * 0 + 3, rng.integers(0, 5, 7)),
    ]
    mean = rng.normal(size=d).astype(np.float32)
    return kept_by, several, mean, rng.normal(size=(5, d))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 2, 15, 16, 77, 1280])
def test_every_level_has_the_bits_of_numpy(monkeypatch, level, kind, d):
    kept_by, several, mean, queries = make(d, kind)
    whole = fixed_point(queries)[0]
    for form in (FeatureForm(), FeatureForm(root=True), FeatureForm(True, mean)):
        for differences in (False, True):
            given = queries if differences else whole
            found = []
            for name, threads in ((level, 1), (level, 3), ("numpy", 1)):
                monkeypatch.setenv(scan.LEVEL_VARIABLE, name)
                found.append(
                    products(
                        given, several, kept_by, form, differences=differences, threads=threads
                    )
                )
            for one in found[:2]:
                for array, want in zip(one, found[2], strict=True):
                    np.testing.assert_array_equal(array, want)
                    assert array.shape == (107,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_kept_features_are_compared_as_the_values_that_they_stand_for(kind, metric):
    kept_by, several, mean, queries = make(33, kind)
    x = queries.astype(np.float32)
    space = FeatureSpace(metric, True, mean) if metric == "cosine" else FeatureSpace(metric)
    found = space.between(space.probes(x), several, kept_by)
    at = 0
    for part in several:
        for row, query in zip(part.rows, part.queries, strict=True):
            (values,) = kept_by.decode(part.features[[row]])
            assert found[at] == space.distances(x[query], values[None])[0]
            wide, y = x[query].astype(np.float64), values.astype(np.float64)
            if metric == "cosine":
                wide, y = (np.sign(v) * np.sqrt(np.abs(v)) - mean for v in (wide, y))
                want = 2 - 2 * wide @ y / np.linalg.norm(wide) / np.linalg.norm(y)
            else:
                want = ((wide - y) ** 2).sum() if metric == "l2" else -wide @ y
            assert found[at] == pytest.approx(want, rel=1e-5, abs=1e-6 * (1 + np.abs(y).sum()))
            at += 1
    assert at == len(found)


@pytest.mark.parametrize(
    ("rows", "queries", "shape"), [([40], [0], 40), ([-1], [0], 40), ([0], [5], 40), ([0], [0], 0)]
)
def test_the_kernels_refuse_what_lies_outside(rows, queries, shape):
    if not LEVELS:
        pytest.skip("the kernels were not compiled")
    kept_by, (pairs, *_), _, x = make(16, "int8")
    wrong = Pairs(pairs.features[:shape], np.array(rows), np.array(queries))
    with pytest.raises(ValueError, match="must be"):
        products(x, [wrong], kept_by, FeatureForm())
