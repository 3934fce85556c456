"""Codewords on disks: distances by geoopt and by the tables of the codec, and their use."""

from __future__ import annotations

import json

import geoopt
import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.codes import pack, unpack
from hyperpq.errors import NotTrainedError
from hyperpq.explore import codeword_disks, codeword_usage

KINDS = ("product", "nibbles", "sphere", "flat", "fidelity", "balanced", "pq")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_codec_has_disks(kinds, kind):
    index = kinds[kind]
    view = index.view()
    disks = codeword_disks(view)
    codes = unpack(view.codes_of(view.ids), view.coder.M, view.coder.nbits)
    assert [disk.m for disk in disks] == list(range(view.coder.M))
    for disk in disks:
        counts = np.bincount(codes[:, disk.m], minlength=1 << view.coder.nbits)
        np.testing.assert_array_equal(disk.usage, counts)
        assert disk.used == len(set(codes[:, disk.m]))
        p = counts[counts > 0] / 600
        assert disk.entropy == pytest.approx(-(p * np.log2(p)).sum())
        assert disk.perplexity <= disk.used + 1e-9
        assert disk.positions.shape == (len(counts), 2)
        assert np.linalg.norm(disk.positions, axis=1).max() <= 1
        assert 0 < disk.shown <= 1
    json.dumps([disk.to_json() for disk in disks])
    np.testing.assert_array_equal(codeword_usage(view), [disk.usage for disk in disks])


@pytest.mark.parametrize("kind", ["product", "nibbles"])
def test_radii_on_the_poincare_disk_are_hyperbolic_distances(kinds, kind):
    view = kinds[kind].view()
    for disk in codeword_disks(view):
        ball = geoopt.PoincareBall(c=-disk.curvature)
        # geoopt's ball has the radius 1 / sqrt(c).
        points = torch.from_numpy(disk.positions) / (-disk.curvature) ** 0.5
        np.testing.assert_allclose(ball.dist0(points).numpy(), disk.distances, rtol=1e-6)


@pytest.mark.parametrize("kind", ["product", "sphere", "flat"])
def test_directions_are_those_of_decoded_codewords(kinds, kind):
    """Each codeword lies in the direction of its own vector, in one plane for all of a subspace."""
    view = kinds[kind].view()
    K = 1 << view.coder.nbits
    codes = np.repeat(np.arange(K, dtype=np.uint8)[:, None], view.coder.M, 1)
    words = view.decode(pack(codes, view.coder.nbits)).reshape(K, view.coder.M, -1)
    for disk in codeword_disks(view):
        own = words[:, disk.m].astype(np.float64)
        np.testing.assert_allclose(disk.distances, np.linalg.norm(own, axis=1), rtol=1e-5)
        _, values, directions = np.linalg.svd(own)
        plane = own @ directions[:2].T
        want = plane / np.linalg.norm(plane, axis=1, keepdims=True)
        found = disk.positions / np.linalg.norm(disk.positions, axis=1, keepdims=True)
        # Up to the signs of the two directions.
        signs = np.sign((want * found).sum(0))
        np.testing.assert_allclose(found, want * signs, atol=1e-4)
        assert disk.shown == pytest.approx((values[:2] ** 2).sum() / (values**2).sum(), rel=1e-5)


def test_an_index_without_codec_is_refused():
    with pytest.raises(NotTrainedError):
        codeword_disks(HiHPQIndex(24, 4, device="cpu").view())
