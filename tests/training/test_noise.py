"""Features with fewer directions than the head has coordinates: every byte of a code has a use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex, evaluation
from hyperpq.codec.serialization import WEIGHTS_FILE, from_files, to_files
from hyperpq.codes import unpack
from hyperpq.errors import CorruptIndexError


def features(d, n=900, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, d))
    return np.abs(centres[rng.integers(12, size=n)] + 0.6 * rng.normal(size=(n, d))).astype("f")


def entropies(codec, x):
    """Entropy in bits of each code of rows (n, d), shape (M,)."""
    counts = [
        np.bincount(column, minlength=codec.quantizer.K) / len(x)
        for column in unpack(codec.encode(x), codec.M, codec.nbits).T
    ]
    return np.array([-(p[p > 0] * np.log2(p[p > 0])).sum() for p in counts])


def trained(d, M, x=None, nbits=8, **changes):
    index = HiHPQIndex(d, M, nbits, device="cpu")
    index.train(features(d) if x is None else x, **{"epochs": 1, "holdout_check": False} | changes)
    return index


@pytest.fixture(scope="module")
def narrow():
    return trained(48, 16)


def test_every_byte_of_a_long_code_of_narrow_features_has_a_use(narrow):
    """At d = 48, 8 of the 16 bytes were those of noise; each index below has had such bytes."""
    x = features(48)
    spread = narrow.embed(x).reshape(len(x), 16, -1).var(0).sum(1)
    assert spread.min() > 0.05 * spread.max()
    assert entropies(narrow.codec, x).min() > 6
    near = evaluation.knn(narrow.embed(x[:50]), narrow.embed(x), 10, metric="l2")[1]

    def recall(index):
        index.add(x)
        return evaluation.recall_at(index.search(x[:50], 10)[1], near)

    assert recall(narrow.with_bits(128)) > recall(narrow.with_bits(64)) + 0.02


@pytest.mark.parametrize(
    ("d", "M", "nbits", "recipe"),
    [
        (48, 32, 8, {}),
        (50, 12, 8, {}),
        (20, 9, 8, {}),
        (5, 4, 8, {}),
        (6, 6, 4, {}),
        (20, 16, 8, {"epochs": 0}),
    ],
)
def test_every_code_varies_where_the_features_have_as_many_directions(d, M, nbits, recipe, caplog):
    index = trained(d, M, nbits=nbits, **recipe)
    assert entropies(index.codec, features(d)).min() > 1
    assert "noise" not in caplog.text


def test_few_rows_of_wide_features_fill_every_byte():
    """99 directions of 100 features of 300 numbers: half of the bytes were noise."""
    x = features(300, n=100)
    assert entropies(trained(300, 32, x).codec, x).min() > 3


@pytest.mark.parametrize("recipe", [{}, {"subspaces": 0, "width": 64}])
def test_bytes_that_cannot_have_a_use_are_named(recipe, caplog):
    index = trained(6, 8, **recipe)
    assert (
        "2 of the 8 codes of a vector hold nothing but noise, as the features vary in 6 "
        "directions only: 48 bits are enough." in caplog.text
    )
    caplog.clear()
    index.with_bits(40)
    assert not caplog.text
    index.with_bits(80)
    assert "4 of the 10" in caplog.text


@pytest.mark.parametrize("nbits", [8, 4])
def test_equal_vectors_are_named_and_8_bits_are_enough(nbits, caplog):
    x = np.tile(features(32, n=1), (40, 1))
    trained(32, 8, x, nbits=nbits)
    assert "features are all equal" in caplog.text
    assert "8 bits are enough" in caplog.text
    assert "noise" not in caplog.text
    caplog.clear()
    # One direction: lengths of codes are multiples of 8 bits.
    trained(32, 8, x * np.linspace(1, 2, 40, dtype=np.float32)[:, None], nbits=nbits)
    assert "in 1 directions only: 8 bits are enough" in caplog.text
    caplog.clear()
    trained(32, 8, x[:1], nbits=nbits)
    assert "enough" not in caplog.text


def test_other_lengths_and_files_of_reordered_coordinates(narrow, tmp_path):
    codec, x = narrow.codec, features(48, 200, 1)
    assert codec.order is not None
    direct = codec.with_bits(64)
    assert direct.order is None
    for detour in (128, 192, 256, 32):
        assert to_files(codec.with_bits(detour).with_bits(64)) == to_files(direct)
        assert to_files(direct.with_bits(detour)) == to_files(codec.with_bits(detour))
    # The representation is the same one, with its columns in another order.
    rows = torch.from_numpy(x)
    want, other = codec.tangent(rows).flatten(1), direct.tangent(rows).flatten(1)
    torch.testing.assert_close(want[:, codec.columns()], other[:, direct.columns()])
    assert not torch.equal(want, other)
    narrow.add(x)
    narrow.save(tmp_path / "index")
    again = HiHPQIndex.load(tmp_path / "index", device="cpu")
    np.testing.assert_array_equal(again.codec.tables(x), codec.tables(x))
    np.testing.assert_array_equal(again.search(x, 5), narrow.search(x, 5))
    assert to_files(again.codec) == to_files(codec)


@pytest.mark.parametrize("damage", [lambda o: o * 0, lambda o: o[1:], lambda o: o.float()])
def test_damaged_order_is_refused(narrow, damage):
    from safetensors.torch import load, save

    files = to_files(narrow.codec)
    state = load(files[WEIGHTS_FILE])
    assert torch.equal(state["order"].sort().values, torch.arange(256))
    state["order"] = damage(state["order"])
    with pytest.raises(CorruptIndexError, match=r"order in codec\.safetensors"):
        from_files({**files, WEIGHTS_FILE: save(state)})
