"""Learned baselines: losses against formulas in float64, codes, seeds, and quality above chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks import learned_baselines, quality
from benchmarks import learned_losses as losses
from benchmarks.baselines import Vectors, unit
from benchmarks.learned_baselines import LEARNED, LEARNED_LENGTHS, hamming_search
from benchmarks.runlog import Key, RunLog
from hyperpq.errors import InvalidInputError

pytest.importorskip("faiss")

D, K = 48, 20


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def tensors(*arrays):
    return [torch.from_numpy(x).float() for x in arrays]


def cosines(a, b):
    return (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pairs(x):
    s = cosines(x, x)
    return np.array([s[i, j] for i in range(len(x)) for j in range(i + 1, len(x))])


def test_nt_xent_is_its_formula():
    a, b = draw(7, 5), draw(7, 5, seed=1)
    s = np.exp(cosines(np.concatenate([a, b]), np.concatenate([a, b])) / 0.3)
    want = [-np.log(s[i, (i + 7) % 14] / (s[i].sum() - s[i, i])) for i in range(14)]
    assert losses.nt_xent(*tensors(a, b), 0.3).item() == pytest.approx(np.mean(want), rel=1e-5)


def test_the_divergence_of_bits_is_its_formula():
    p, q = sigmoid(draw(6, 4)), sigmoid(draw(6, 4, seed=1))

    def kl(a, b):
        return (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum(1).mean()

    got = losses.bernoulli_divergence(*tensors(p, q)).item()
    assert got == pytest.approx((kl(p, q) + kl(q, p)) / 2, rel=1e-4)
    assert losses.bernoulli_divergence(*tensors(p, p)).item() == 0


def test_half_of_each_bit_is_one_and_no_other_such_code_is_nearer():
    u = draw(8, 3)
    codes = losses.half_bits(*tensors(u)).numpy()
    assert (codes.sum(0) == 0).all()
    assert set(np.unique(codes)) == {-1, 1}
    for column, bits in zip(u.T, codes.T, strict=True):
        cost = ((column - bits) ** 2).sum()
        for number in range(2**8):
            other = np.array([1.0 if number >> i & 1 else -1.0 for i in range(8)])
            assert other.sum() != 0 or ((column - other) ** 2).sum() >= cost - 1e-5
    assert losses.half_bits(torch.zeros(7, 2)).sum(0).tolist() == [-1, -1]


def test_the_similarity_loss_is_its_formula():
    codes, x = np.sign(draw(6, 8)), draw(6, 5, seed=1)
    want = np.mean((pairs(codes) - pairs(x)) ** 2)
    assert losses.similarity_loss(*tensors(codes, x)).item() == pytest.approx(want, rel=1e-5)


def test_the_calibration_loss_is_its_formula():
    stats = pytest.importorskip("scipy.stats")
    targets = losses.beta_quantiles(5.0, 15)
    want = 2 * stats.beta(5, 5).ppf((np.arange(15) + 0.5) / 15) - 1
    np.testing.assert_allclose(targets, want, atol=1e-5)
    u, x = draw(6, 8), draw(6, 5, seed=1)
    loss = np.abs(pairs(u)[np.argsort(pairs(x))] - want).mean()
    assert losses.calibration_loss(*tensors(u, x), targets).item() == pytest.approx(loss, rel=1e-4)
    quantized = 1 - np.diag(cosines(u, np.sign(u))).mean()
    assert losses.quantization_loss(*tensors(u)).item() == pytest.approx(quantized, rel=1e-4)


def test_alignment_and_coding_rate_are_their_formulas():
    a, b = draw(9, 4), draw(9, 4, seed=1)

    def entropy(logits, bits):
        p = sigmoid(logits)
        return -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).mean()

    want = (entropy(a, b > 0) + entropy(b, a > 0)) / 2
    assert losses.alignment_loss(*tensors(a, b)).item() == pytest.approx(want, rel=1e-5)
    z = a / np.linalg.norm(a, axis=1)[:, None]
    rate = np.linalg.slogdet(np.eye(4) + 4 / (9 * 0.25) * z.T @ z)[1] / 2 * 13 / 36
    assert losses.coding_rate(*tensors(a), 0.5).item() == pytest.approx(rate, rel=1e-5)


@pytest.mark.parametrize("n_memory", [0, 3])
def test_the_debiased_contrast_is_its_formula(n_memory):
    q, k, memory = draw(5, 6), draw(5, 6, seed=1), draw(3, 6, seed=2)[:n_memory]
    s = np.exp(cosines(q, k) / 0.4)
    others = np.exp(cosines(q, memory) / 0.4).sum(1) if n_memory else 0
    positive, n = np.diag(s), 4 + n_memory
    mean = (s.sum(1) - positive + others) / n
    estimate = np.maximum((mean - 0.1 * positive) / 0.9, np.exp(-1 / 0.4))
    want = -np.log(positive / (positive + n * estimate)).mean()
    rows = tensors(memory)[0] if n_memory else None
    assert losses.debiased_contrast(*tensors(q, k), rows, 0.4, 0.1).item() == pytest.approx(
        want, rel=1e-5
    )


def test_codeword_similarity_is_its_formula():
    books = draw(2, 6, 3)
    want = np.mean([[a @ b for a in book for b in book] for book in books])
    assert losses.codeword_similarity(*tensors(books)).item() == pytest.approx(want, abs=1e-6)


def test_hamming_search_breaks_ties_by_row():
    rng = np.random.default_rng(0)
    query, database = (rng.integers(0, 2, (n, 8)).astype(np.uint8) for n in (300, 90))
    distances = (query[:, None] != database).sum(2)
    want = np.argsort(distances, axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(hamming_search(query, database, K), want)


@pytest.fixture(scope="module")
def data():
    """Rows around 10 centres, two views of those that train, and the centre of each row."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((10, D))
    labels = [rng.integers(0, 10, n) for n in (300, 40, 400)]
    rows = [centres[y] + rng.standard_normal((len(y), D)) for y in labels]
    views = rows[0] + 0.3 * rng.standard_normal((2, 300, D))
    vectors = Vectors(*(unit(x.astype(np.float32)) for x in rows))
    return vectors, np.stack([unit(v.astype(np.float32)) for v in views]), labels


@pytest.fixture
def short(monkeypatch):
    for method in learned_baselines.METHODS.values():
        schedule = dataclasses.replace(method.schedule, epochs=8, batch=64)
        monkeypatch.setattr(method, "schedule", schedule)


@pytest.mark.parametrize("name", LEARNED)
def test_finds_rows_of_the_same_centre_and_depends_on_the_seed_alone(data, short, name):
    vectors, views, (_, asked, labels) = data
    before = torch.random.get_rng_state()
    found = LEARNED[name](vectors, views, 16, K, 0)
    assert (torch.random.get_rng_state() == before).all()
    assert found.ids.shape == (40, K) and found.ids.dtype == np.int64
    assert all(len(set(row)) == K for row in found.ids)
    assert found.bytes == 2 and found.train_seconds > 0 and found.encode_seconds > 0
    chance = hamming_search(*random_codes(vectors), K)
    precision, of_chance = ((labels[x] == asked[:, None]).mean() for x in (found.ids, chance))
    assert precision > of_chance + 0.1
    np.testing.assert_array_equal(LEARNED[name](vectors, views, 16, K, 0).ids, found.ids)
    assert (LEARNED[name](vectors, views, 16, K, 1).ids != found.ids).any()


def random_codes(vectors):
    directions = draw(D, 16, seed=3)
    return [(x @ directions > 0).astype(np.uint8) for x in (vectors.query, vectors.database)]


def test_codes_and_views_that_no_method_learns_from_are_refused(data):
    vectors, views, _ = data
    with pytest.raises(InvalidInputError, match="mecoq has no codes of 8 bits; expected one of 16"):
        LEARNED["mecoq"](vectors, views, 8, K, 0)
    with pytest.raises(InvalidInputError, match=r"has 1 views .* cibhash expected at least 2"):
        LEARNED["cibhash"](vectors, views[:1], 16, K, 0)


def test_the_benchmark_measures_them_with_views_and_at_their_lengths(cache, short, monkeypatch):
    folders = ["--features", str(cache), "--out", str(cache.parent / "out")]
    options = ["--bits", "8,16", "--seeds", "1", "--recipes", "none", "--baselines", "mecoq,bihalf"]
    command = ["--dataset", "folder:groups", *folders, *options]
    quality.main(command)
    runs = RunLog(cache / "groups-lite0/runs.jsonl").runs
    learned = {key for key in runs if key[0] in LEARNED}
    assert learned == {Key(m, "normalized", 16, 0) for m in ("mecoq", "bihalf")}
    assert 8 not in LEARNED_LENGTHS
    # Other views are another run; nothing else is.
    seen = []
    monkeypatch.setattr(quality.QualityBench, "measure_baseline", lambda _, key: seen.append(key))
    quality.main(command)
    assert not seen
    views = np.load(cache / "groups-lite0/views-mild.npy")
    np.save(cache / "groups-lite0/views-mild.npy", views + 1)
    quality.main(command)
    assert set(seen) == learned
