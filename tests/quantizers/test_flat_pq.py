"""Flat product quantizer: what it keeps of its codebooks follows them."""

from __future__ import annotations

import copy

import pytest
import torch

from hyperpq.quantizers.flat_pq import FlatProductQuantizer


def test_the_first_of_equal_codewords_follows_the_codebooks():
    g = torch.Generator().manual_seed(0)
    q = FlatProductQuantizer(2, 3, 4)
    words = torch.randn(2, 16, 3, generator=g)
    q.codebooks.copy_(words)
    own = torch.arange(16)[:, None].expand(16, 2)
    assert torch.equal(q.codes(words.transpose(0, 1)).long(), own)

    doubled = words.clone()
    doubled[:, 8:] = doubled[:, :8]
    for other in (q, copy.deepcopy(q)):
        other.load_state_dict({"codebooks": doubled})
        assert torch.equal(other.codes(doubled.transpose(0, 1)).long(), own % 8)
        other.load_state_dict({"codebooks": words})
        assert torch.equal(other.codes(words.transpose(0, 1)).long(), own)


@pytest.mark.parametrize("outlier", [0.0, 1e6, 1e15])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_distances_are_accurate_however_far_a_codeword_is(outlier, offset):
    """The point halfway to the outlier is so far that vectors from there have lost their digits."""
    g = torch.Generator().manual_seed(0)
    q = FlatProductQuantizer(2, 5, 4)
    words = torch.randn(2, 16, 5, generator=g) + offset
    words[0, 3] += outlier
    q.codebooks.copy_(words)
    x = torch.randn(40, 2, 5, generator=g) + offset
    x[:5] = words[:, 1]
    want = (x.double()[:, :, None] - words.double()).square().sum(-1)
    torch.testing.assert_close(q.tables(x).double(), want, rtol=1e-7, atol=0)
