"""Vectors smoothed with the centroids near them, against a plain double loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hyperpq import scan
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.serialization import from_files, to_files
from hyperpq.codec.smoothing import MAX_CENTROIDS, Smoothing, fit_centroids
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.inference.smoothing import weight_for_bits
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


def vectors(n, F=12, seed=0):
    return torch.randn(n, F, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "neighbours, m, k", [(12, 2000, 12), (12, 400, 5), (3, 400, 3), (1, 80, 1)]
)
def test_each_vector_against_a_loop(neighbours, m, k):
    v, centroids = vectors(30), vectors(m, seed=1)
    smoothing = Smoothing(centroids, 0.3, neighbours)
    assert smoothing.neighbours == k
    got = smoothing(v).numpy()
    for row, value in zip(v.double().numpy(), got, strict=True):
        z = centroids.double().numpy()
        cosine = z @ row / np.linalg.norm(z, axis=1)
        nearest = z[np.argsort(-cosine)[:k]]
        np.testing.assert_allclose(value, 0.7 * row + 0.3 * nearest.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("m, weight, neighbours", [(0, 0.3, 12), (79, 0.3, 12), (400, 0.0, 12)])
def test_nothing_to_smooth_with(m, weight, neighbours):
    v = vectors(5)
    assert torch.equal(Smoothing(vectors(m), weight, neighbours)(v), v)


def test_centroids_of_a_sample():
    assert len(fit_centroids(vectors(159), seed=0)) == 0
    assert len(fit_centroids(vectors(160), seed=0)) == 80
    assert len(fit_centroids(vectors(2 * MAX_CENTROIDS + 50, 4), seed=0)) == MAX_CENTROIDS
    v = vectors(900)
    centroids = fit_centroids(v, seed=3)
    assert torch.equal(centroids, fit_centroids(v, seed=3))
    # Lloyd's k-means ends near its fixed point: each centroid is the mean of its vectors.
    own = torch.cdist(v, centroids).argmin(1)
    sums = torch.zeros_like(centroids).index_add_(0, own, v)
    count = torch.bincount(own, minlength=len(centroids))
    gap = (sums / count[:, None] - centroids)[count > 0].norm(dim=1)
    assert float(gap.median()) < 0.2 * float(v.norm(dim=1).median())


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 12, 1800)
    x = rng.normal(size=(12, 24))[labels] + 0.9 * rng.normal(size=(1800, 24))
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def codec(data):
    recipe = Recipe().replace(width=32, hidden=16, epochs=3, batch=128, holdout_check=False)
    return train_codec(data[0][:1300], M=4, recipe=recipe)


def test_a_codec_smooths_in_its_own_order_of_coordinates(codec, data):
    assert codec.centroids.shape == (650, 32)
    x = torch.from_numpy(data[0][:50])
    # A code of twice 64 bits is smoothed as if twice.
    for bits, weight in ((8, 0.15), (24, 0.15), (40, 0.15), (64, 0.15), (128, 0.2775)):
        one = codec.with_bits(bits)
        v = one.tangent(x).flatten(1)
        # Any order of coordinates has the same cosines; those that fill up a subspace are 0.
        order = [
            int((v == column[:, None]).all(0).nonzero()[0, 0]) for column in v.T if column.any()
        ]
        assert len(set(order)) == 32
        want = Smoothing(one.smoothing.centroids[:, order], weight, 12)(v[:, order])
        torch.testing.assert_close(one.vectors(x).flatten(1)[:, order], want)
        torch.testing.assert_close(
            one.smoothing.centroids[:, order], codec.with_bits(8).smoothing.centroids
        )


def test_a_vector_alone_has_the_code_that_it_has_among_others(codec, data):
    x = data[0][1300:1340]
    together = codec.encode(x)
    alone = np.concatenate([codec.encode(row[None]) for row in x])
    assert (together == alone).all(1).mean() > 0.95
    np.testing.assert_allclose(
        np.concatenate([codec.embed(row[None]) for row in x]), codec.embed(x), atol=1e-4
    )


def test_files_keep_it(codec, data):
    again = from_files(to_files(codec))
    np.testing.assert_array_equal(again.embed(data[0]), codec.embed(data[0]))
    assert again.smoothing.neighbours == codec.smoothing.neighbours == 8


def test_new_images_get_nearer_to_their_class(codec, data):
    """Smoothed queries and codes of images that didn't train find more of their class."""
    x, labels = data
    plain = from_files(to_files(codec))
    plain.config = replace(plain.config, smoothing_weight=0.0)
    plain.set_centroids(plain.centroids)
    quality = []
    for one in (plain.with_bits(32), codec.with_bits(32)):
        found = scan.search(one.tables(x[1300:]), one.encode(x[:1300]), 50)[1]
        quality.append((labels[found] == labels[1300:, None]).mean())
    assert quality[1] > quality[0]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_weight_of_long_codes(weight):
    assert [weight_for_bits(weight, bits) for bits in (4, 8, 32, 64)] == [weight] * 4
    v = centroids = torch.ones(160, 3)
    for times in (2, 4):
        again = v
        for _ in range(times):
            again = (1 - weight) * again + weight * 3 * centroids
        share = weight_for_bits(weight, 64 * times)
        torch.testing.assert_close((1 - share) * v + share * 3 * centroids, again)


def test_impossible_settings(codec):
    for bad in ({"smoothing_weight": 1.5}, {"smoothing_weight": -0.1}):
        with pytest.raises(InvalidInputError, match="smoothing_weight is"):
            CodecConfig(8, **bad)
    with pytest.raises(InvalidInputError, match="smoothing_neighbours is"):
        CodecConfig(8, smoothing_neighbours=-1)
    with pytest.raises(InvalidInputError, match="smoothing_weight is"):
        Recipe().replace(smoothing_weight=2.0)
    with pytest.raises(InvalidInputError, match="temperature is"):
        CodecConfig(8, temperature=0.0)
    files = to_files(codec)
    for old, new in ((b'"average_neighbours": 12', b'"average_neighbours": 1.5'),):
        assert old in files["codec.json"]
        with pytest.raises(CorruptIndexError):
            from_files({**files, "codec.json": files["codec.json"].replace(old, new)})
