"""Where training starts: the head against SVD, the mean, and data with little in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.geometry import GEOMETRIES
from hyperpq.training.features import normalized_features, tangent_vectors
from hyperpq.training.initialize import (
    ATTENTION_SHARPNESS,
    fit_head,
    fit_normalization,
    initialize_codec,
)
from hyperpq.training.task import TrainingTask


def test_pca_head_is_the_svd_dealt_out_in_turn():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 12)) * np.linspace(3, 0.5, 12)).astype(np.float32)
    codec = HiHPQCodec(CodecConfig(12, 3, 4, 2, normalization="none"))
    fit_head(codec, x, radius=0.7, seed=0)
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    _, _, Vt = np.linalg.svd(centred, full_matrices=False)
    weight = codec.weight.detach().numpy()
    factor = np.linalg.norm(weight[:, 0])
    for m in range(3):
        for i in range(2):
            axis = Vt[i * 3 + m]
            ours = weight[:, 2 * m + i] / factor
            assert abs(ours @ axis) == pytest.approx(1, abs=1e-4)
            assert ours[np.abs(ours).argmax()] > 0
    v = tangent_vectors(codec, x)
    np.testing.assert_allclose(v.mean(0), 0, atol=1e-4)
    assert float(v.norm(dim=2).median()) == pytest.approx(0.7, rel=1e-3)


def test_normalization_mean_is_that_of_the_signed_roots():
    x = np.random.default_rng(1).normal(size=(9000, 5)).astype(np.float32)
    codec = HiHPQCodec(CodecConfig(5, 1, 4, 2))
    fit_normalization(codec, x)
    want = (np.sign(x) * np.sqrt(np.abs(x.astype(np.float64)))).mean(0)
    np.testing.assert_allclose(codec.mean, want, atol=1e-7)
    other = HiHPQCodec(CodecConfig(5, 1, 4, 2, normalization="unit"))
    fit_normalization(other, x)
    assert not other.mean.any()
    # In batches of any float type.
    whole = codec.normalize(torch.from_numpy(x))
    np.testing.assert_allclose(normalized_features(codec, x.astype(np.float64)), whole, atol=1e-7)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_sharpness_of_the_attention_follows_the_data_in_each_geometry(x, small, geometry):
    recipe = small.replace(beta=0.0, geometry=geometry, curvature=0.25)
    codec = initialize_codec(TrainingTask(x, recipe, 2, 4, "l1", 0, "cpu"))
    q = codec.quantizer
    assert q.geometry.name == geometry
    points = q.points(tangent_vectors(codec, x))
    nearest = q.codewords()[torch.arange(2), q.codes(points).long()]
    median = float(q.geometry.sqchord(points, nearest, q.c).detach().median())
    assert codec.config.beta == q.beta == pytest.approx(ATTENTION_SHARPNESS / median)


@pytest.mark.parametrize("n", [2, 3])
def test_rounding_errors_do_not_set_the_scale(n):
    """Two features span one axis: the other subspaces hold nothing but the noise of `eigh`."""
    x = np.abs(np.random.default_rng(0).normal(size=(n, 1280))).astype(np.float32)
    index = HiHPQIndex(1280, M=8, device="cpu")
    index.train(x, epochs=0)
    assert 0.01 < float(index.codec.sample.float().norm(dim=1).max()) < 10
    index.add(x)
    assert index.search(x, 1)[1][:, 0].tolist() == list(range(n))
