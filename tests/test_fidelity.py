"""Codes that keep exact neighbours: against faiss OPQ, on noise, on few rows."""

from __future__ import annotations

import logging

import faiss
import numpy as np
import pytest
import torch

from hyperpq.codec import HiHPQCodec
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import recall_at
from hyperpq.training import fidelity
from hyperpq.training.fidelity import FidelityState, fit_fidelity, subspace


def anisotropic(n: int, seed: int, d: int = 48) -> np.ndarray:
    """Unit vectors around 20 centres; variances fall as 1 / rank, turned at random."""
    shape = np.random.default_rng(0)
    turn = np.linalg.qr(shape.normal(size=(d, d)))[0]
    spread = 1 / np.sqrt(1 + np.arange(d))
    centers = shape.normal(size=(20, d)) * spread
    rng = np.random.default_rng(seed)
    x = (centers[rng.integers(0, 20, n)] + rng.normal(size=(n, d)) * spread) @ turn + 0.1
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def codec_of(state: FidelityState) -> HiHPQCodec:
    M, K, D = state.codebooks.shape
    codec = HiHPQCodec(
        len(state.weight),
        M,
        K.bit_length() - 1,
        D=D,
        score=state.score,
        max_norm=state.max_norm,
        conditioning="unit",
        head="linear",
    )
    with torch.no_grad():
        codec.weight.copy_(state.weight)
        codec.bias.copy_(state.bias)
        codec.quantizer.codebooks.copy_(state.codebooks)
        codec.quantizer.log_c.copy_(state.log_c)
    codec.is_trained = True
    return codec


def recall_of(state: FidelityState, query: np.ndarray, database: np.ndarray) -> float:
    codec = codec_of(state)
    tables, codes = codec.tables(query), codec.encode(database)
    score = sum(tables[:, m, codes[:, m]] for m in range(codec.M))
    found = np.argsort(score, axis=1, kind="stable")[:, :10]
    return recall_at(found, np.argsort(-query @ database.T, axis=1)[:, :10])


def opq_recall(x: np.ndarray, query: np.ndarray, database: np.ndarray, M: int) -> float:
    d = x.shape[1]
    index = faiss.IndexPreTransform(faiss.OPQMatrix(d, M), faiss.IndexPQ(d, M, 8))
    index.train(x)
    index.add(database)
    truth = np.argsort(-query @ database.T, axis=1)[:, :10]
    return recall_at(index.search(query, 10)[1], truth)


def test_recall_is_above_that_of_opq():
    # Three draws: on one alone chance decides more than the method.
    ours, theirs = [], []
    for draw in (0, 10, 20):
        x, query, database = (anisotropic(n, draw + n) for n in (2000, 300, 6000))
        ours.append(recall_of(fit_fidelity(x, 4, seed=0, epochs=20), query, database))
        theirs.append(opq_recall(x, query, database, 4))
    assert np.mean(ours) >= np.mean(theirs)


def test_a_refinement_that_finds_fewer_is_dropped(caplog, monkeypatch):
    x = anisotropic(1200, 1)
    start = fit_fidelity(x, 4, 4, seed=0, epochs=0)
    monkeypatch.setattr(fidelity, "_RATE", 0.5)
    with caplog.at_level(logging.INFO, logger="hyperpq"):
        state = fit_fidelity(x, 4, 4, seed=0, epochs=3)
    assert "OPQ is kept" in caplog.text
    assert torch.equal(state.weight, start.weight)
    assert torch.equal(state.codebooks, start.codebooks)


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
    assert state.codebooks.shape == (M, 256, subspace(d, M))
    unit = torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))
    q = state.quantizer()
    v = state.tangent(unit)
    np.testing.assert_allclose(q.decode(q.codes(q.points(v))), v, atol=2e-3)


@pytest.mark.parametrize(
    "x", [np.zeros((1000, 4)), np.ones((1000, 4)), np.eye(4)[np.arange(1000) % 4]]
)
def test_equal_rows_and_zeros(x):
    state = fit_fidelity(x.astype(np.float32), 2, seed=0, epochs=2)
    for value in (state.weight, state.bias, state.codebooks, state.log_c):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("nbits", [4, 8])
def test_same_seed_same_bytes(nbits):
    x = anisotropic(1100, 1)
    a, b = (fit_fidelity(x, 3, nbits, seed=5, epochs=3) for _ in range(2))
    for name in ("weight", "bias", "codebooks", "log_c"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.codebooks.shape[1] == 1 << nbits
    assert a.max_norm == b.max_norm


def test_no_unit_vector_is_clipped():
    state = fit_fidelity(anisotropic(1100, 1), 3, seed=0, epochs=3)
    any_unit = torch.nn.functional.normalize(torch.randn(20000, 48, generator=torch.manual_seed(0)))
    worst = torch.linalg.svd(state.weight.view(48, 3, -1).transpose(0, 1))[0][:, :, 0]
    for x in (any_unit, worst, -worst):
        assert state.tangent(x).norm(dim=2).max() < state.max_norm
    assert state.codebooks.norm(dim=2).max() < state.max_norm


def test_long_sets_are_sampled(monkeypatch):
    monkeypatch.setattr(fidelity, "SAMPLE", 1000)
    x = anisotropic(2999, 1)
    whole, part = fit_fidelity(x, 2, seed=0, epochs=1), fit_fidelity(x[::3], 2, seed=0, epochs=1)
    assert torch.equal(whole.codebooks, part.codebooks)


def test_wrong_sizes_are_named():
    with pytest.raises(InvalidInputError, match="0 rows"):
        fit_fidelity(np.zeros((0, 4), np.float32), 2, seed=0)
    with pytest.raises(InvalidInputError, match="nbits 5"):
        fit_fidelity(np.ones((9, 4), np.float32), 2, 5, seed=0)
