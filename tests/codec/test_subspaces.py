"""Coordinates cut into subspaces, and the curvatures of these."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.codec.subspaces import (
    split_coordinates,
    split_curvatures,
    spread_coordinates,
    take_coordinates,
    varying_coordinates,
)


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

    def curvatures(F, M):
        return split_curvatures(log_c, F, split_coordinates(F, M))

    torch.testing.assert_close(curvatures(16, 4), log_c)
    torch.testing.assert_close(curvatures(16, 2), torch.tensor([0.5, 2.5]))
    torch.testing.assert_close(curvatures(16, 8), log_c.repeat_interleave(2))
    # 6, 5 and 5 of 16 coordinates.
    want = torch.tensor([2 / 6, (2 * 1 + 3 * 2) / 5, (1 * 2 + 4 * 3) / 5])
    torch.testing.assert_close(curvatures(16, 3), want)
    assert curvatures(4, 6)[-1] == 1.5


def drawn(d, M0, D0, noise=1e-5, seed=0):
    """Vectors (400, M0 * D0) whose d directions are dealt to M0 subspaces in turn, then noise."""
    rng = np.random.default_rng(seed)
    deviations = np.full((D0, M0), noise)
    deviations.ravel()[:d] = np.linspace(1, 0.1, d)
    return torch.from_numpy(rng.normal(size=(400, M0 * D0)) * deviations.T.ravel())


@given(
    M0=st.integers(1, 8),
    D0=st.integers(1, 8),
    part=st.floats(0, 1),
    M=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_no_subspace_is_noise_while_another_could_give_a_coordinate(M0, D0, part, M, seed):
    F = M0 * D0
    d = max(1, round(part * F))
    v = drawn(d, M0, D0, seed=seed)
    varies = varying_coordinates(v)
    assert varies.sum() == d
    order = spread_coordinates(v, M0, M)
    index = split_coordinates(F, M, order)
    np.testing.assert_array_equal(np.sort(index[index >= 0]), np.arange(F))
    used = (varies[index] & (index >= 0)).sum(1)
    assert (used > 0).sum() == min(d, M)
    if order is None:
        np.testing.assert_array_equal(index, split_coordinates(F, M))
    else:
        assert used.max() - used.min() <= 1


def test_coordinates_that_all_vary_are_cut_as_they_were_learned():
    """So that codes of features with more directions than the head has coordinates stay."""
    for M in (1, 4, 8, 12, 16, 32):
        assert spread_coordinates(drawn(256, 8, 32), 8, M) is None
    # Noise does no harm where each subspace has more than that.
    assert spread_coordinates(drawn(48, 8, 32), 8, 4) is None
    assert spread_coordinates(torch.ones(3, 8), 2, 4) is None


def test_parts_of_a_subspace_get_strong_and_weak_coordinates_alike():
    order = spread_coordinates(drawn(48, 8, 32), 8, 16)
    index = split_coordinates(256, 16, order)[:, :3]
    # Directions 0, 16 and 32, as they were dealt to the eight subspaces; then 8, 24 and 40.
    assert sorted(index[0].tolist()) == [0, 2, 4]
    assert sorted(index[1].tolist()) == [1, 3, 5]
    assert (index // 32 == np.arange(16)[:, None] // 2).all()
