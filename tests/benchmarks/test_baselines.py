"""Baselines: code sizes, recall far above chance, and the same results for the same seed."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmarks import baselines
from hyperpq.errors import InvalidInputError
from hyperpq.evaluation import recall_at

faiss = pytest.importorskip("faiss")

D, K = 64, 50
ADDITIVE = ("rq", "lsq", "prq", "plsq")
# The least recall at each code length; by chance it is K / 1500 = .033.
MIN_RECALL = {8: 0.1, 32: 0.2}


@pytest.fixture(scope="module")
def data():
    """Training, query and database vectors around 60 centres; the variance falls by dimension."""
    rng = np.random.default_rng(0)
    scales = np.linspace(2, 0.2, D)
    centres = rng.normal(size=(60, D)) * scales

    def draw(n):
        x = centres[rng.integers(0, 60, n)] + 0.5 * rng.normal(size=(n, D)) * scales
        return baselines.unit(x.astype(np.float32))

    return baselines.Vectors(draw(600), draw(30), draw(1500))


@pytest.fixture(scope="module")
def find(data):
    """What a baseline finds; each search runs only once."""
    return functools.cache(
        lambda name, bits, seed=0: baselines.BASELINES[name](data, bits, K, seed)
    )


@pytest.mark.parametrize(
    ("name", "bits"),
    [(n, b) for n in baselines.BASELINES for b in baselines.lengths(n) if b in MIN_RECALL],
)
def test_finds_neighbours_in_codes_of_that_length(data, find, name, bits):
    found = find(name, bits)
    assert found.ids.shape == (30, K)
    assert found.ids.dtype == np.int64
    assert found.ids.min() >= 0
    assert found.ids.max() < 1500
    assert all(len(set(row)) == K for row in found.ids)
    recall = recall_at(found.ids, baselines.exact(data.query, data.database, K))
    assert recall > MIN_RECALL[bits]
    assert found.bytes == bits // 8 + (8 if name == "rabitq" else 0)
    assert found.train_seconds > 0
    assert found.encode_seconds > 0


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_depends_on_the_seed_and_on_nothing_else(data, find, name):
    bits = baselines.lengths(name)[0]
    first, other = find(name, bits).ids, find(name, bits, 1).ids
    np.testing.assert_array_equal(baselines.BASELINES[name](data, bits, K, 0).ids, first)
    assert (first != other).any()


@pytest.mark.parametrize("name", baselines.FACTORY)
def test_code_sizes_of_all_lengths(name):
    for bits in baselines.lengths(name):
        extra = 8 if name == "rabitq" else 0
        assert baselines.make_index(name, 128, bits, 0).sa_code_size() == bits // 8 + extra


@pytest.mark.parametrize("name", ADDITIVE)
def test_decoding_once_ranks_like_the_search_of_faiss(data, find, name):
    train, query, database = data
    index = baselines.make_index(name, D, 32, 0)
    index.train(train)
    index.add(database)
    distances, _ = index.search(query, K)
    # Rows with equal codes may be in another order, so distances are compared instead of rows.
    decoded = baselines._last(index).reconstruct_n(0, len(database))[find(name, 32).ids]
    got = ((decoded - baselines._transform(index, query)[:, None]) ** 2).sum(2)
    np.testing.assert_allclose(got, distances, atol=1e-5)


def test_asymmetric_itq_uses_the_signs_of_the_codes(data):
    train, query, database = data
    index = baselines.make_index("itq_adc", D, 16, 0)
    index.train(train)
    rotate = faiss.downcast_VectorTransform(index.chain.at(0))
    signs = np.where(rotate.apply(database) >= 0, 1.0, -1.0)
    products = rotate.apply(query).astype(np.float64) @ signs.T
    ids = baselines.BASELINES["itq_adc"](data, 16, K, 0).ids
    want = -np.sort(-products, axis=1)[:, :K]
    np.testing.assert_allclose(np.take_along_axis(products, ids, 1), want, atol=1e-5)


def test_every_quantizer_has_the_seed_and_enough_iterations():
    plsq = baselines.make_index("plsq", D, 32, 9)
    quantizers = baselines._quantizers(baselines._last(plsq))
    assert [quantizer.random_seed for quantizer in quantizers] == [9, 9]
    assert {quantizer.encode_ils_iters for quantizer in quantizers} == {16}
    opq = baselines.make_index("opq", D, 32, 9)
    rotation = baselines._chain(opq)[-1]
    assert (rotation.pq.cp.seed, rotation.niter) == (9, 50)
    assert baselines._last(opq).pq.cp.seed == 9


def test_lengths_that_a_baseline_does_not_support_are_refused(data):
    assert baselines.lengths("plsq") == (32, 64, 128)
    for name, bits in [("prq", 8), ("plsq", 16), ("pq", 12), ("tangent_pq", 0)]:
        with pytest.raises(InvalidInputError, match=f"{name} has no codes of {bits} bits"):
            baselines.BASELINES[name](data, bits, K, 0)
    with pytest.raises(InvalidInputError, match=r"have 130 dimensions; .* a multiple of 4"):
        baselines.make_index("pq", 130, 32, 0)
    with pytest.raises(InvalidInputError, match=r"have 100 dimensions; .* at least 128"):
        baselines.make_index("itq", 100, 128, 0)
    narrow = baselines.Vectors(*(x[:, :60] for x in data))
    with pytest.raises(InvalidInputError, match=r"have 60 dimensions; .* at least 64"):
        baselines.BASELINES["tangent_opq"](narrow, 32, K, 0)


def test_exact_is_the_cosine_of_vectors_of_any_length(data):
    _, query, database = data
    stretched = database * np.linspace(0.1, 9, len(database), dtype=np.float32)[:, None]
    cosine = query.astype(np.float64) @ database.T.astype(np.float64)
    want = np.argsort(-cosine, axis=1)[:, :K]
    np.testing.assert_array_equal(baselines.exact(query, stretched, K), want)


def test_unit_leaves_zeros():
    x = np.array([[3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(baselines.unit(x), [[0.6, 0.8], [0, 0]])
