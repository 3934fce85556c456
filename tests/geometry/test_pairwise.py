"""Distances of all pairs against the exact pairwise formula, and their gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperpq.geometry import METRICS, lorentz_chord, pairwise
from hyperpq.utils import side_by_side
from hyperpq.utils.devices import single_thread


def drawn(n, m, M, D, seed, spread=0.7):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, M, D, generator=generator).double() * spread for k in (n, m))
    return x, y, torch.rand(M, generator=generator).double() * 3 + 0.05


def one_by_one(x, y, c, metric):
    q2 = lorentz_chord.sqchord(x[:, None], y[None], c)
    return lorentz_chord.metric_from_sqchord(q2, c, metric).sum(2)


@given(
    n=st.integers(1, 9),
    m=st.integers(1, 9),
    M=st.integers(1, 4),
    D=st.integers(1, 5),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_values_are_those_of_single_pairs(n, m, M, D, metric, seed):
    x, y, c = drawn(n, m, M, D, seed)
    got = pairwise.pairwise_distances(x, y, c, metric)
    torch.testing.assert_close(got, one_by_one(x, y, c, metric), rtol=1e-9, atol=3e-4)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("pairs", [1, 10, 1 << 16])
def test_gradients_are_those_of_finite_differences_in_blocks_of_any_size(
    metric, pairs, monkeypatch
):
    monkeypatch.setattr(pairwise, "_BLOCK_PAIRS", pairs)
    inputs = [value.requires_grad_() for value in drawn(6, 4, 3, 4, seed=1)]
    assert torch.autograd.gradcheck(
        lambda x, y, c: pairwise.pairwise_distances(x, y, c, metric), inputs
    )


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_of_points_with_themselves(metric):
    """The diagonal is at the floor: it has no gradient, and spoils none."""
    x, _, c = drawn(40, 1, 2, 3, seed=2)
    weights = torch.rand(40, 40, generator=torch.Generator().manual_seed(3)).double()
    weights.fill_diagonal_(0)
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    (pairwise.pairwise_distances(own, own, c, metric) * weights).sum().backward()
    (one_by_one(other, other, c, metric) * weights).sum().backward()
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-6, atol=1e-6)
    assert torch.isfinite(own.grad).all()
    only = x.clone().requires_grad_()
    pairwise.pairwise_distances(only, only, c, metric).diagonal().sum().backward()
    assert (only.grad == 0).all()


def test_float32_is_near_float64():
    x, y, c = drawn(300, 200, 4, 16, seed=4, spread=0.3)
    wide = pairwise.pairwise_distances(x, y, c, "l1")
    narrow = pairwise.pairwise_distances(x.float(), y.float(), c.float(), "l1")
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_the_number_of_cores_changes_no_bit(metric, monkeypatch):
    x, y, c = (value.float() for value in drawn(300, 450, 5, 4, seed=4))
    weights = torch.randn(300, 450, generator=torch.Generator().manual_seed(5))

    def results(cores):
        monkeypatch.setattr(side_by_side, "default_threads", lambda: cores)
        inputs = [value.clone().requires_grad_() for value in (x, y, c)]
        with single_thread():
            out = pairwise.pairwise_distances(*inputs, metric)
            (out * weights).sum().backward()
        return out, *(value.grad for value in inputs)

    for one, several in zip(results(1), results(4), strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("metric", METRICS)
def test_all_subspaces_at_once_as_a_gpu_takes_them(metric):
    """Values and gradients are those of the blocks of a CPU, at the floor, too."""
    x, y, c = drawn(30, 20, 4, 5, seed=6)
    y[:7] = x[:7]
    weights = torch.randn(30, 20, generator=torch.Generator().manual_seed(7)).double()
    results = []
    for function in (pairwise._PairwiseDistances, pairwise._AllAtOnce):
        inputs = [value.clone().requires_grad_() for value in (x, y, c)]
        out = function.apply(*inputs, metric)
        (out * weights).sum().backward()
        results.append((out.detach(), *(value.grad for value in inputs)))
    for blocks, at_once in zip(*results, strict=True):
        torch.testing.assert_close(at_once, blocks, rtol=1e-10, atol=1e-10)
    few = [value.requires_grad_() for value in drawn(6, 4, 3, 4, seed=1)]
    assert torch.autograd.gradcheck(lambda *inputs: pairwise._AllAtOnce.apply(*inputs, metric), few)


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_is_read_back_from_a_gpu(metric):
    """Tensors without values, of the device meta, refuse to be read."""
    inputs = [value.to("meta").requires_grad_() for value in drawn(6, 4, 3, 4, seed=1)]
    pairwise.pairwise_distances(*inputs, metric).sum().backward()
    assert [value.grad.shape for value in inputs] == [value.shape for value in inputs]
