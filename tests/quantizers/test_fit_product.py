"""Codebooks fitted to a finished representation, at every length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpq import scan
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import from_files, to_files
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.evaluation import recall_at
from hyperpq.geometry import lorentz
from hyperpq.quantizers.fit_product import (
    distil_codebooks,
    fit_codebooks,
    lorentz_kmeans,
    nearest,
    split_coordinates,
    split_curvatures,
    take_coordinates,
)
from hyperpq.quantizers.product import LorentzProductQuantizer
from hyperpq.training.recipe import Recipe
from hyperpq.training.train import train_codec


@given(F=st.integers(1, 60), M=st.integers(1, 80))
def test_every_coordinate_has_one_place(F, M):
    index = split_coordinates(F, M)
    assert index.shape == (M, -(-F // M))
    np.testing.assert_array_equal(index[index >= 0], np.arange(F))
    sizes = (index >= 0).sum(1)
    assert sizes.max() - sizes.min() <= 1
    v = torch.randn(3, F)
    taken = take_coordinates(v, index).view(3, *index.shape)
    assert torch.equal(taken[:, index >= 0], v)
    assert (taken[:, index < 0] == 0).all()


def test_curvatures_are_means_over_the_coordinates():
    log_c = torch.tensor([0.0, 1.0, 2.0, 3.0])
    torch.testing.assert_close(split_curvatures(log_c, 16, 4), log_c)
    torch.testing.assert_close(split_curvatures(log_c, 16, 2), torch.tensor([0.5, 2.5]))
    torch.testing.assert_close(split_curvatures(log_c, 16, 8), log_c.repeat_interleave(2))
    # 6, 5 and 5 of 16 coordinates.
    want = torch.tensor([2 / 6, (2 * 1 + 3 * 2) / 5, (1 * 2 + 4 * 3) / 5])
    torch.testing.assert_close(split_curvatures(log_c, 16, 3), want)
    assert split_curvatures(log_c, 4, 6)[-1] == 1.5


@pytest.fixture(scope="module")
def v():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(12, 5)) * 0.7
    return torch.tensor(centres[rng.integers(0, 12, 500)] + rng.normal(size=(500, 5)) * 0.1).float()


@pytest.mark.parametrize("c", [0.01, 1.0, 4.0])
def test_kmeans_is_a_fixed_point_of_lloyd_in_float64(v, c):
    c, r = torch.tensor(c), 2.0
    words = lorentz_kmeans(v, 12, c, r, seed=0, iterations=30).double()
    points = lorentz.expmap0(lorentz.clip_norm(v.double(), r), c.double())
    own = nearest(points, lorentz.expmap0(words, c.double()), c.double())
    for k in own.unique():
        centre = lorentz.centroid(
            points[own == k], torch.ones(1, int((own == k).sum())).double(), c.double()
        )
        torch.testing.assert_close(
            lorentz.logmap0(centre, c.double())[0], words[k], rtol=1e-3, atol=1e-3
        )


def test_kmeans_lowers_the_hyperbolic_error(v):
    c = torch.tensor(4.0)
    v = v * 2

    def error(words):
        points, words = lorentz.expmap0(lorentz.clip_norm(v, 2.4), c), lorentz.expmap0(words, c)
        return float(lorentz.sqchord(points, words[nearest(points, words, c)], c).mean())

    before, after = (error(lorentz_kmeans(v, 8, c, 2.4, seed=0, iterations=i)) for i in (0, 10))
    assert after < before


@pytest.mark.parametrize("n", [1, 3, 16])
def test_few_vectors_are_their_own_codewords(v, n):
    words = lorentz_kmeans(v[:n], 16, torch.tensor(1.0), 9.0, seed=0)
    assert words.shape == (16, 5)
    assert torch.equal(words.unique(dim=0), v[:n].unique(dim=0))


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(30, 24)) * 1.5
    return (centres[rng.integers(0, 30, 700)] + rng.normal(size=(700, 24))).astype(np.float32)


@pytest.fixture(scope="module")
def codec(x):
    recipe = Recipe(width=24, hidden=16, epochs=2, batch=64, guard=False)
    return train_codec(x, M=4, recipe=recipe)


def test_any_relative_gives_the_same_codec(codec):
    for bits, nbits in ((8, 8), (16, 8), (24, 8), (40, 8), (256, 8), (4, 4), (12, 4), (64, 4)):
        direct = codec.with_bits(bits, nbits=nbits)
        assert direct.code_size == -(-bits // 8)
        for detour in (8, 56, 264):
            again = codec.with_bits(detour).with_bits(bits, nbits=nbits)
            assert to_files(again) == to_files(direct)
        loaded = from_files(to_files(direct))
        assert to_files(loaded.with_bits(16)) == to_files(codec.with_bits(16))


def test_training_at_a_length_is_fitting_at_that_length(x, codec):
    recipe = Recipe(width=24, hidden=16, epochs=2, batch=64, guard=False)
    assert to_files(train_codec(x, M=2, recipe=recipe)) == to_files(codec.with_bits(16))


def test_representation_stays_the_same(x, codec):
    np.testing.assert_allclose(codec.with_bits(16).embed(x), codec.embed(x), atol=1e-5)
    odd = codec.with_bits(40).embed(x)
    np.testing.assert_allclose(odd[:, (odd != 0).any(0)], codec.embed(x), atol=1e-5)


def recall_of(codec, x, truth):
    """Recall@10 of the first rows, as many as ``truth`` (nq, 10) has."""
    return recall_at(scan.search(codec.tables(x[: len(truth)]), codec.encode(x), 10)[1], truth)


def test_more_bits_find_more_of_the_exact_neighbours(x, codec):
    v = codec.embed(x)
    truth = np.argsort(np.square(v[:60, None] - v[None]).sum(2), 1)[:, :10]
    recall = [recall_of(codec.with_bits(b, metric="geodesic"), x, truth) for b in (8, 32, 64)]
    assert recall[0] < recall[1] < recall[2]


def test_features_of_ones_own_and_another_score(x, codec):
    other = codec.with_bits(16, x=x[:300], metric="chord", seed=3)
    assert other.quantizer.metric == "chord"
    assert to_files(other) != to_files(codec.with_bits(16, metric="chord", seed=3))
    with torch.no_grad():
        wide = codec.tangent(torch.from_numpy(x[:300])).flatten(1)
        same = other.tangent(torch.from_numpy(x[:300])).flatten(1)
    torch.testing.assert_close(same, wide)
    torch.testing.assert_close(other.sample.float(), wide, atol=1e-3, rtol=1e-3)
    assert len(other.centroids) == 150


def test_features_of_elsewhere_get_codes_of_their_own(x, codec):
    elsewhere = x[:, ::-1] * 0.5 + 2
    truth = np.argsort(np.square(x[:60, None] - x[None]).sum(2), 1)[:, :10]
    other = codec.with_bits(32, x=elsewhere)
    as_it_is = recall_of(codec.with_bits(32), elsewhere, truth)
    assert recall_of(other, elsewhere, truth) > as_it_is + 0.1
    # Vectors are averaged with those of there, and not any more with those of learning.
    with torch.no_grad():
        there = codec.tangent(torch.from_numpy(elsewhere)).flatten(1)
    own, learned = (
        torch.cdist(one.centroids.float(), there).min(1).values.max() for one in (other, codec)
    )
    assert own < 1 < learned


@pytest.mark.parametrize("bits, nbits", [(0, 8), (12, 8), (-8, 8), (8.0, 8), (8, 5), (6, 4)])
def test_impossible_lengths(codec, bits, nbits):
    with pytest.raises(InvalidInputError, match="bits is"):
        codec.with_bits(bits, nbits=nbits)


def test_bad_calls(codec, x):
    with pytest.raises(NotTrainedError):
        HiHPQCodec(24).with_bits(16)
    with pytest.raises(InvalidInputError, match="no rows"):
        codec.with_bits(16, x=x[:0])
    with pytest.raises(InvalidInputError, match="metric is"):
        codec.with_bits(16, metric="l2")


def ranked(q, v, target):
    """Mean cross-entropy between the continuous ranking and that by codes, float64, by a loop."""
    points, space = q.points(v), target.points(v.flatten(1).unflatten(1, (target.M, target.D)))
    words = q.decode(q.codes(points))
    coded = lorentz.expmap0(q.clip(words), q.c)
    total = 0.0
    for i in range(len(v)):
        others = torch.arange(len(v)) != i
        d, coded_d = (
            lorentz.score_of(
                lorentz.sqchord(one[i][None].double(), many[others].double(), c.double()),
                c.double(),
                "l1",
            ).sum(1)
            for one, many, c in ((space, space, target.c), (points, coded, q.c))
        )
        p, log_p = torch.softmax(-d / 0.1, 0), torch.log_softmax(-coded_d / 0.25, 0)
        total -= float((p * log_p).sum())
    return total / len(v)


@pytest.mark.parametrize("metric", ["l1", "chord"])
def test_distillation_ranks_vectors_it_has_not_seen(metric):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, 16)) * 0.35
    v = centres[rng.integers(0, 40, 2600)] + rng.normal(size=(2600, 16)) * 0.1
    v = torch.tensor(v.reshape(2600, 2, 8)).float()
    target = LorentzProductQuantizer(4, 4, 4)
    target.requires_grad_(False)
    q = LorentzProductQuantizer(2, 8, 4, metric=metric)
    with torch.no_grad():
        q.codebooks.copy_(fit_codebooks(v[:2000], 16, q.log_c, q.max_norm, seed=0))
        before, start = ranked(q, v[2000:2200], target), q.codebooks.clone()
    with torch.no_grad():
        distil_codebooks(q, v[:2000], target, v[:2000].flatten(1), 0.25, 4, seed=0)
        after = ranked(q, v[2000:2200], target)
    assert after < before
    assert not torch.equal(q.codebooks, start)
    assert (q.log_c == 0).all() and q.codebooks.grad is None and q.log_c.grad is None
    # The same again, bit for bit; and codewords stay near their vectors.
    again = LorentzProductQuantizer(2, 8, 4, metric=metric)
    with torch.no_grad():
        again.codebooks.copy_(start)
        distil_codebooks(again, v[:2000], target, v[:2000].flatten(1), 0.25, 4, seed=0)
    assert torch.equal(again.codebooks, q.codebooks)
    assert float((q.codebooks.detach() - start).norm(dim=2).max()) < 0.5


def test_few_vectors_are_not_distilled():
    v = torch.randn(1023, 1, 4)
    q, target = LorentzProductQuantizer(1, 4, 4), LorentzProductQuantizer(1, 4, 4)
    with torch.no_grad():
        q.codebooks.normal_()
        start = q.codebooks.clone()
        distil_codebooks(q, v, target, v.flatten(1), 0.25, 4, seed=0)
    assert torch.equal(q.codebooks, start)
