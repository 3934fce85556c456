"""Additive quantizer: search of codes, tables, and its fit."""

from __future__ import annotations

import itertools

import pytest
import torch

from hyperpq.errors import InvalidInputError
from hyperpq.quantizers.additive import DISCOUNT, AdditiveQuantizer, smallest
from hyperpq.quantizers.fit_additive import fit_additive


def vectors(n: int, D: int, seed: int = 0) -> torch.Tensor:
    """(y, s) with s above |y|^2."""
    y = torch.randn(n, D - 1, generator=torch.Generator().manual_seed(seed))
    more = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed + 1))
    return torch.cat([y, y.square().sum(1, keepdim=True) + more], 1)


def drawn(M: int, D: int, nbits: int = 4) -> AdditiveQuantizer:
    q = AdditiveQuantizer(M, D, nbits)
    with torch.no_grad():
        q.codebooks.normal_(generator=torch.Generator().manual_seed(5))
        q.stress.fill_(0.7)
    return q


def costs(q: AdditiveQuantizer, v: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The cost of codes (C, M) for each vector, float64, as the docstring has it."""
    wide = v.double()
    total = q.codebooks.double()[torch.arange(q.M), codes].sum(1)
    y, s, z, N = wide[:, :-1], wide[:, -1], total[:, :-1], total[:, -1]
    miss = N - y @ z.T - (s - y.square().sum(1))[:, None] / 2
    return torch.cdist(y, z).square() + float(q.stress) * miss.square()


@pytest.mark.parametrize(("M", "D"), [(1, 2), (2, 4), (3, 9)])
def test_a_wide_beam_finds_the_best_code(M, D):
    q, v = drawn(M, D), vectors(40, D)
    every = torch.tensor(list(itertools.product(range(16), repeat=M)))
    cost = costs(q, v, every)
    found = q.codes(v[:, None], beam=16**M).long()
    own = costs(q, v, found).diagonal()
    torch.testing.assert_close(own, cost.amin(1).detach(), rtol=1e-5, atol=1e-5)


def test_a_wider_beam_costs_less_and_blocks_dont_matter():
    q, v = drawn(4, 12, 8), vectors(700, 12)
    mean = [costs(q, v, q.codes(v[:, None], beam).long()).diagonal().mean() for beam in (1, 4, 32)]
    assert mean[0] > mean[1] > mean[2]
    parts = torch.cat([q.codes(part[:, None]) for part in v.split(333)])
    assert (parts == q.codes(v[:, None])).float().mean() > 0.999
    assert q.codes(v[:0, None]).shape == (0, 4)


@pytest.mark.parametrize("k", [1, 4, 15, 16, 40])
def test_smallest_is_topk(k):
    cost = torch.randn(50, 256, generator=torch.Generator().manual_seed(k))
    want = cost.topk(k, dim=1, largest=False)
    assert torch.equal(smallest(cost, k), want[1])


def test_tables_sum_to_the_score_and_decode_agrees():
    q, v = drawn(3, 9, 8), vectors(20, 9, 3)
    codes = torch.randint(0, 256, (30, 3), generator=torch.Generator().manual_seed(1))
    tables = q.tables(v[:, None])
    assert tables.shape == (20, 3, 256)
    got = tables.double()[:, torch.arange(3), codes].sum(-1)
    total = q.codebooks.detach().double()[torch.arange(3), codes].sum(1)
    wide = v.double()
    want = wide[:, -1:] - 2 * wide[:, :-1] @ total[:, :-1].T + DISCOUNT * total[:, -1]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
    back = q.decode(codes.to(torch.uint8))
    assert back.shape == (30, 1, 9)
    torch.testing.assert_close(back[:, 0, :-1].double(), total[:, :-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [1, 7, 256])
def test_few_rows_are_their_own_codewords(n):
    v = vectors(n, 6)
    q = fit_additive(v, 3, seed=0)
    torch.testing.assert_close(q.decode(q.codes(v[:, None]))[:, 0], v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("nbits", [4, 8])
def test_refinement_lowers_the_cost_and_repeats(nbits):
    v = vectors(1100, 9)
    start, *ends = (fit_additive(v, 2, nbits, seed=3, epochs=e) for e in (0, 4, 4))
    before, after = (
        costs(q, v, q.codes(v[:, None]).long()).diagonal().mean() for q in (start, ends[0])
    )
    assert after < before
    assert torch.equal(ends[0].codebooks, ends[1].codebooks)
    assert start.codebooks.shape == (2, 1 << nbits, 9)


@pytest.mark.parametrize("wrong", [{"nbits": 5}, {"M": 0}, {"D": 1}])
def test_wrong_sizes_are_named(wrong):
    with pytest.raises(InvalidInputError, match="is "):
        AdditiveQuantizer(**({"M": 2, "D": 3} | wrong))
