"""The order of codewords: groups of a scan's bound hold near ones."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq import PQCodec, scan
from hyperpq.quantizers.codeword_order import near_codewords_together
from hyperpq.quantizers.fit_flat import fit_flat

pytest.importorskip("faiss")


def spread(words, size):
    """Mean squared distance of codewords to the mean of their group of ``size``."""
    groups = words.astype(np.float64).reshape(-1, size, words.shape[1])
    return float(((groups - groups.mean(1, keepdims=True)) ** 2).sum(-1).mean())


def test_groups_of_an_order_hold_near_codewords():
    rng = np.random.default_rng(0)
    words = rng.normal(size=(256, 8)).astype(np.float32)
    order = near_codewords_together(words)
    np.testing.assert_array_equal(np.sort(order), np.arange(256))
    for size, share in ((2, 0.45), (4, 0.5), (16, 0.75)):
        assert spread(words[order], size) < share * spread(words, size)


def test_clusters_become_the_groups():
    rng = np.random.default_rng(1)
    centres = rng.permutation(np.repeat(np.arange(16), 16))
    words = (100 * centres[:, None] + rng.random((256, 3))).astype(np.float32)
    grouped = centres[near_codewords_together(words)].reshape(16, 16)
    assert (grouped == grouped[:, :1]).all()


@pytest.mark.parametrize("value", [0, 1e16])
def test_equal_codewords_are_an_order(value):
    words = np.full((16, 2), value, np.float32)
    np.testing.assert_array_equal(np.sort(near_codewords_together(words)), np.arange(16))


def test_learned_codebooks_are_in_that_order_and_answers_do_not_change():
    x = np.random.default_rng(2).normal(size=(600, 8)).astype(np.float32)
    books = fit_flat(x, 2, 8, seed=0)
    for book in books:
        shuffled = book[np.random.default_rng(3).permutation(256)]
        assert spread(book, 16) < 0.8 * spread(shuffled, 16)
    codec = PQCodec.from_codebooks(books)
    order = np.random.default_rng(4).permutation(256)
    other = PQCodec.from_codebooks(books[:, order])
    found = [scan.search(c.tables(x[:20]), c.encode(x), 7) for c in (codec, other)]
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
