"""Training, codes and files in each geometry, and codewords learned straight-through."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hyperpq.codec.serialization import SETTINGS_FILE, from_files, to_files
from hyperpq.errors import InvalidInputError
from hyperpq.geometry import GEOMETRIES, METRICS
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec

SMALL = Recipe().replace(
    width=16, hidden=16, epochs=2, curvature=0.25, train_curvature=False, holdout_check=False
)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(400, 24)).astype(np.float32)


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_training_learns_in_each_geometry(x, geometry, straight_through):
    recipe = SMALL.replace(
        geometry=geometry, straight_through=straight_through, quantized_weight=0.5
    )
    codec = train_codec(x, M=2, nbits=4, recipe=recipe)
    assert codec.quantizer.geometry.name == geometry
    assert np.isfinite(codec.tables(x)).all()
    assert len(np.unique(codec.encode(x))) > 8


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("metric", METRICS)
def test_codes_of_any_length_find_their_neighbours(geometry, metric):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(20, 24))
    label = rng.integers(0, 20, 500)
    x = (centres[label] + 0.2 * rng.normal(size=(500, 24))).astype(np.float32)
    recipe = SMALL.replace(geometry=geometry, curvature=1.0, epochs=0)
    learned = train_codec(x, M=4, metric=metric, recipe=recipe)
    for M in (1, 2, 4, 16):
        codec = learned.with_bits(8 * M)
        assert codec.quantizer.geometry.name == geometry
        codes = codec.encode(x).astype(np.int64)
        distances = codec.tables(x[:100])[:, np.arange(M), codes].sum(2)
        nearest = label[np.argsort(distances, 1, kind="stable")[:, :10]]
        assert (nearest == label[:100, None]).mean() > 0.9


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_files_keep_the_geometry(x, geometry):
    codec = train_codec(x, M=2, recipe=SMALL.replace(geometry=geometry, epochs=0))
    files = to_files(codec)
    stored = json.loads(files[SETTINGS_FILE])
    assert stored.get("geometry") == (None if geometry == "lorentz" else geometry)
    again = from_files(files)
    assert to_files(again) == files
    assert again.quantizer.geometry.name == geometry
    np.testing.assert_array_equal(again.encode(x), codec.encode(x))
    np.testing.assert_array_equal(again.tables(x[:9]), codec.tables(x[:9]))


def test_geometries_give_different_codes(x):
    codes = [
        train_codec(x, M=2, recipe=SMALL.replace(geometry=geometry, curvature=1.0)).encode(x)
        for geometry in GEOMETRIES
    ]
    for i, own in enumerate(codes):
        assert all((own != other).any() for other in codes[i + 1 :])


def test_an_unknown_geometry_is_refused():
    with pytest.raises(InvalidInputError, match="geometry is 'flat'"):
        Recipe().replace(geometry="flat")
