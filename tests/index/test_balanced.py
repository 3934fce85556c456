"""Indexes with the objective ``balanced``: in memory, in a directory, changed and learned again."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq import HiHPQIndex
from hyperpq.codec.balanced import BalancedCodec
from hyperpq.codec.serialization import to_files
from hyperpq.codes import unpack
from hyperpq.diagnostics import describe_index
from hyperpq.errors import InvalidInputError
from hyperpq.index.factory import index_factory, parse_factory
from hyperpq.index.learning import recipe_of
from hyperpq.store import verify_directory

RNG = np.random.default_rng(5)
X = RNG.normal(size=(300, 8)).astype(np.float32)
QUERIES = RNG.normal(size=(4, 8)).astype(np.float32)
SMALL = {"epochs": 0, "width": 16, "subspaces": 2}


@pytest.fixture(scope="module")
def codec():
    index = HiHPQIndex(8, 3, 4, objective="balanced", device="cpu")
    index.train(X[:100], **SMALL)
    return index.codec


@pytest.fixture(params=["memory", "disk"])
def index(request, codec, tmp_path):
    made = HiHPQIndex.from_codec(codec, features="float32", device="cpu")
    made.add(X, attributes={"row": np.arange(300)})
    if request.param == "memory":
        return made
    made.save(tmp_path / "i")
    return HiHPQIndex.load(tmp_path / "i", device="cpu", durability="fast")


def assert_brute_force(index, rows=None):
    """A search adds up the entries of its tables, over the rows that are there."""
    ids = np.asarray(list(index)) if rows is None else rows
    codes = unpack(index.encode(index.features_of(ids)), index.M, index.nbits)
    tables = index.codec.tables(QUERIES)
    D, found = index.search(QUERIES, 9)
    for q, table in enumerate(tables):
        sums = table.astype(np.float64)[np.arange(index.M), codes].sum(1)
        np.testing.assert_allclose(D[q], np.sort(sums)[:9], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(sums[np.searchsorted(ids, found[q])], D[q], rtol=1e-5, atol=1e-5)


def test_an_index_says_what_its_codes_keep(index, codec):
    assert isinstance(index.codec, BalancedCodec)
    assert (index.objective, index.metric, index.M) == ("balanced", "balanced", 3)
    assert "metric='balanced', objective='balanced'" in repr(index)
    assert to_files(index.codec) == to_files(codec)
    assert_brute_force(index)


def test_changes_of_rows(index):
    index.remove_ids(np.arange(0, 300, 3))
    index.add(X[:30] + np.float32(0.1), attributes={"row": np.arange(30)})
    assert_brute_force(index)
    D, ids = index.search(QUERIES, 5, where="row < 20")
    assert np.isfinite(D).all()
    assert (index.attributes_of(ids.ravel())["row"] < 20).all()
    again = HiHPQIndex.from_codec(index.codec, features="float32", device="cpu")
    again.add(X[:20], attributes={"row": np.arange(20)})
    before = index.ntotal
    index.merge_from(again, add_id=1000)
    assert index.ntotal == before + 20
    assert_brute_force(index)
    if index.path:
        index.compact()
        verify_directory(index.path)
        assert_brute_force(HiHPQIndex.load(index.path, device="cpu"))


def test_similarities(index):
    _, ids, similarities = index.search_similar(X[:3], 5)
    np.testing.assert_array_equal(ids[:, 0], np.arange(3))
    assert (similarities[:, 0] == 100).all()


def test_indexes_of_other_balances_are_not_merged(index):
    other = BalancedCodec(index.codec.semantic, index.codec.fidelity, 0.5, factor=0.5)
    other = HiHPQIndex.from_codec(other, device="cpu")
    other.add(X[:3])
    with pytest.raises(InvalidInputError, match=r"balance is 0\.25 here and 0\.5 there"):
        index.merge_from(other)


def test_other_lengths(index):
    other = index.with_bits(16, nbits=4, rows=True)
    assert (other.M, other.codec.semantic.M, other.ntotal) == (4, 2, 300)
    assert (other.objective, other.metric) == ("balanced", "balanced")
    assert_brute_force(other)
    with pytest.raises(InvalidInputError, match=r"M is 1 with the objective .* 8 bits or more"):
        index.with_bits(4, nbits=4)


def test_learning_again_keeps_the_objective(index):
    index.retrain()
    assert (index.objective, index.training.objective, index.M) == ("balanced", "balanced", 3)
    assert index.training.n == 300
    recipe = recipe_of(index.codec, 300)
    assert (recipe.objective, recipe.balance, recipe.representation.width) == ("balanced", 0.25, 16)
    assert_brute_force(index)
    index.retrain(balance=0.5, bits=16)
    assert (index.codec.config.balance, index.M) == (0.5, 4)
    assert_brute_force(index)
    index.retrain(objective="semantic")
    assert (index.objective, index.metric) == ("semantic", "l1")
    index.retrain(recipe="balanced", epochs=0)
    assert (index.objective, index.training.objective) == ("balanced", "balanced")
    assert index.codec.recipe["name"] == "balanced"
    with pytest.raises(InvalidInputError, match="M is 1 with the objective 'balanced'"):
        index.retrain(bits=4)
    assert (index.objective, index.M) == ("balanced", 4)
    if index.path:
        again = HiHPQIndex.load(index.path, device="cpu")
        assert (again.objective, again.training.objective) == ("balanced", "balanced")
        verify_directory(index.path)


def test_the_metric_is_that_of_the_semantic_codes():
    index = HiHPQIndex(8, 2, 4, metric="chord", objective="balanced", features="int8", device="cpu")
    assert (index.metric, index.objective) == ("balanced", "balanced")
    index.train(X[:40], **SMALL)
    assert (index.metric, index.codec.semantic.metric) == ("balanced", "chord")
    index.add(X)
    index.retrain(epochs=0)
    assert index.codec.semantic.metric == "chord"
    index.retrain(epochs=0, objective="semantic")
    assert index.metric == "chord"


def test_ways_to_ask_for_it():
    made = []
    for recipe, changes, objective in (
        ("default", {"objective": "balanced"}, None),
        ("default", {}, "balanced"),
        ("balanced", {"name": "default"}, None),
        ("balanced", {"name": "default"}, "balanced"),
    ):
        index = HiHPQIndex(8, 2, 4, objective=objective, device="cpu")
        index.train(X[:40], recipe=recipe, **SMALL, **changes)
        made.append(to_files(index.codec))
    assert all(files == made[0] for files in made)
    index = index_factory(8, "HiHPQ2x4,balanced", device="cpu")
    index.train(X[:40], **SMALL)
    assert to_files(index.codec) == made[0]
    want = {"d": 8, "M": 2, "nbits": 8, "metric": "chord", "objective": "balanced"}
    assert parse_factory(8, "HiHPQ2,balanced", "chord") == want


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"M": 1}, "M is 1 with the objective 'balanced'; expected at least 2"),
        ({"metric": "inner"}, "metric is 'cosine' with the objective 'balanced'; expected 'l1'"),
        ({"metric": "l2"}, "plain codebooks learn no representation"),
        ({"metric": "balanced"}, "metric is 'balanced'; expected 'l1'"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        HiHPQIndex(8, **{"M": 2, "objective": "balanced", "device": "cpu"} | arguments)


def test_a_preset_of_another_objective_is_refused():
    index = HiHPQIndex(8, 2, 4, objective="fidelity", device="cpu")
    with pytest.raises(InvalidInputError, match="objective is 'fidelity' with the recipe 'balan"):
        index.train(X[:40], recipe="balanced")


def test_a_description_names_objective_and_metric(codec, tmp_path):
    index = HiHPQIndex.from_codec(codec, device="cpu")
    index.save(tmp_path / "i")
    facts = describe_index(tmp_path / "i")
    assert (facts["objective"], facts["metric"]) == ("balanced", "balanced")
    assert len(str(facts["curvatures"]).split()) == 2
