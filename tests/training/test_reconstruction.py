"""Codes that keep exact neighbours: against faiss OPQ, on noise, on few rows."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch

from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.training import reconstruction
from hyperpq.training.recipe import Recipe
from hyperpq.training.reconstruction import FidelityState, fit_fidelity, train_fidelity
from hyperpq.training.task import TrainingTask


def anisotropic(n: int, seed: int, d: int = 48) -> np.ndarray:
    """Unit vectors around 20 centres; variances fall as 1 / rank, turned at random."""
    shape = np.random.default_rng(0)
    turn = np.linalg.qr(shape.normal(size=(d, d)))[0]
    spread = 1 / np.sqrt(1 + np.arange(d))
    centers = shape.normal(size=(20, d)) * spread
    rng = np.random.default_rng(seed)
    x = (centers[rng.integers(0, 20, n)] + rng.normal(size=(n, d)) * spread) @ turn + 0.1
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def recall_of(state: FidelityState, query: np.ndarray, database: np.ndarray) -> float:
    q, v, stored = state.quantizer, mapped(state, query), mapped(state, database)
    tables, codes = q.tables(v[:, None]), q.codes(stored[:, None]).long()
    metric = sum(tables[:, m, codes[:, m]] for m in range(q.M))
    found = metric.topk(10, largest=False)[1].numpy()
    return recall_at(found, np.argsort(-query @ database.T, axis=1)[:, :10])


def mapped(state: FidelityState, unit: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(unit) @ state.head.weight + state.head.bias


def opq_recall(x: np.ndarray, query: np.ndarray, database: np.ndarray, M: int) -> float:
    d = x.shape[1]
    index = faiss.IndexPreTransform(faiss.OPQMatrix(d, M), faiss.IndexPQ(d, M, 8))
    index.train(x)
    index.add(database)
    truth = np.argsort(-query @ database.T, axis=1)[:, :10]
    return recall_at(index.search(query, 10)[1], truth)


@pytest.mark.slow
def test_recall_is_above_that_of_opq():
    # Three draws: on one alone chance decides more than the method.
    ours, theirs = [], []
    for draw in (0, 10, 20):
        x, query, database = (anisotropic(n, draw + n) for n in (2000, 300, 6000))
        ours.append(recall_of(fit_fidelity(x, 4, seed=0, epochs=20), query, database))
        theirs.append(opq_recall(x, query, database, 4))
    assert np.mean(ours) >= np.mean(theirs)


def test_head_keeps_components_and_the_distance_to_the_mean():
    x, other = anisotropic(500, 1, 100).astype(np.float64), anisotropic(50, 2, 100)
    state = fit_fidelity(x.astype(np.float32), 1, seed=0, epochs=0)
    v = mapped(state, other).numpy()
    assert v.shape == (50, 65)
    gap = other - x.mean(0)
    np.testing.assert_allclose(v[:, -1], np.square(gap).sum(1), atol=1e-5)
    axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:64]
    np.testing.assert_allclose(np.abs(v[:, :-1]), np.abs(gap @ axes.T), atol=1e-3)


def test_noise_has_nothing_to_learn_and_loses_nothing():
    rng = np.random.default_rng(0)
    x, query, database = (rng.normal(size=(n, 32)).astype(np.float32) for n in (1500, 200, 3000))
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    start, end = (fit_fidelity(x, 4, seed=0, epochs=e) for e in (0, 10))
    assert recall_of(end, query, database) > recall_of(start, query, database) - 0.01


@pytest.mark.parametrize(("n", "d", "M"), [(1, 5, 2), (3, 2, 4), (100, 24, 4), (256, 20, 3)])
def test_few_rows_are_their_own_codewords(n, d, M):
    x = np.random.default_rng(n).normal(size=(n, d)).astype(np.float32)
    state = fit_fidelity(x, M, seed=0, epochs=0)
    assert state.quantizer.codebooks.shape == (M, 256, d + 1)
    v = mapped(state, x / np.linalg.norm(x, axis=1, keepdims=True))
    back = state.quantizer.decode(state.quantizer.codes(v[:, None]))
    np.testing.assert_allclose(back[:, 0].detach(), v, atol=1e-4)


@pytest.mark.parametrize(
    "x", [np.zeros((1000, 4)), np.ones((1000, 4)), np.eye(4)[np.arange(1000) % 4]]
)
def test_equal_rows_and_zeros(x):
    state = fit_fidelity(x.astype(np.float32), 2, seed=0, epochs=2)
    for value in (state.head.weight, state.head.bias, *state.quantizer.state_dict().values()):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("nbits", [4, 8])
def test_same_seed_same_bytes(nbits):
    x = anisotropic(1100, 1)
    a, b = (fit_fidelity(x, 3, nbits, seed=5, epochs=3) for _ in range(2))
    assert torch.equal(a.head.weight, b.head.weight)
    assert torch.equal(a.head.bias, b.head.bias)
    assert torch.equal(a.quantizer.codebooks, b.quantizer.codebooks)
    assert 1 << nbits == a.quantizer.K


@pytest.mark.parametrize("exponent", [80, -80])
def test_the_length_of_rows_has_no_part_in_what_is_learned(exponent):
    x = anisotropic(600, 1)
    x[3] = 0
    scaled = np.ldexp(x, exponent)
    # Rows have lengths of their own, too.
    scaled[5:50] = np.ldexp(scaled[5:50], 30)
    recipe = Recipe().replace(objective="fidelity", epochs=1)
    want, found = (
        train_fidelity(TrainingTask(rows, recipe, 3, 4, "l1", 5, "cpu")).state_dict()
        for rows in (x, scaled)
    )
    assert want.keys() == found.keys()
    for name, value in want.items():
        assert torch.equal(found[name], value), name
    # The rows of zeros did not take the place of all others.
    assert len(found["sample"].unique(dim=0)) > 590


def test_long_sets_are_sampled(monkeypatch):
    monkeypatch.setattr(reconstruction, "MAX_ROWS", 1000)
    x = anisotropic(2999, 1)
    whole, part = fit_fidelity(x, 2, seed=0, epochs=1), fit_fidelity(x[::3], 2, seed=0, epochs=1)
    assert torch.equal(whole.quantizer.codebooks, part.quantizer.codebooks)


def test_wrong_sizes_are_named():
    with pytest.raises(InvalidInputError, match="0 rows"):
        fit_fidelity(np.zeros((0, 4), np.float32), 2, seed=0)
    with pytest.raises(InvalidInputError, match="nbits 5"):
        fit_fidelity(np.ones((9, 4), np.float32), 2, 5, seed=0)
