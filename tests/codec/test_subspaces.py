"""Coordinates cut into subspaces, and the curvatures of these."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperpq.codec.subspaces import split_coordinates, split_curvatures, take_coordinates


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
