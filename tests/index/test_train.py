"""`HiHPQIndex.train` and `with_bits`: arguments of every kind, views, few images, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from index_tools import (
    D_IN,
    SMALL,
    Unchanged,
    X,
    assert_same,
    make_x,
    with_value,
)

from hyperpq import HiHPQIndex
from hyperpq.codec.config import CodecConfig
from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.serialization import to_files
from hyperpq.errors import InvalidInputError, NotTrainedError, TrainingError
from hyperpq.estimators import HiHPQNeighborsTransformer, HiHPQTransformer


def test_training_takes_the_same_kinds(tmp_path):
    files = []
    for x in (X, X.astype(np.float64), np.asfortranarray(X), torch.tensor(X), X.astype(">f4")):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(x, recipe=SMALL)
        files.append(to_files(index.codec))
    assert all(other == files[0] for other in files)


def test_another_length_fitted_to_other_features():
    x = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    index = HiHPQIndex(16, M=2, device="cpu")
    index.train(x, epochs=1, holdout_check=False)
    for bits, fitted_to, sample in ((32, x[:200] + 1, 200), (8, None, 400)):
        other = index.with_bits(bits, x=fitted_to)
        assert (other.ntotal, other.code_size, len(other.codec.sample)) == (0, bits // 8, sample)
        other.add(x)
        assert other.search(x[:5], 3)[1].shape == (5, 3)


def test_own_views_are_used(tmp_path):
    def trained(views):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(X, views, recipe=SMALL, holdout_check=False)
        return to_files(index.codec)

    noise = np.random.default_rng(0).normal(size=(3, *X.shape)) * 0.2
    assert trained(X + noise) == trained((X + noise).astype(np.float32).tolist())
    assert trained(X + noise) != trained(None)
    assert trained((X + noise)[:1]) != trained((X + noise)[1:2])


def test_views_of_some_rows():
    def trained(views, view_rows, **changes):
        index = HiHPQIndex(D_IN, 2, device="cpu")
        index.train(X, views, view_rows=view_rows, recipe=SMALL, holdout_check=False, **changes)
        return to_files(index.codec)

    views = X + np.random.default_rng(0).normal(size=(3, *X.shape)) * 0.2
    everything, some = trained(views, None), np.arange(100, 200)
    assert trained(views, np.arange(len(X))) == everything
    # Which rows they belong to counts, their order doesn't.
    parts = trained(views[:, some], some)
    assert parts != everything
    assert parts != trained(views[:, some], some + 1)
    # Without a graph nothing but views is drawn: whose they are doesn't count.
    alone = trained(views[:, some], some, graph_neighbours=0, walk_steps=0)
    assert alone == trained(views[:, some], some + 1, graph_neighbours=0, walk_steps=0)
    assert alone != parts


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"view_rows": [0, 1]}, "view_rows are given without views"),
        ({"views": X[None, :2], "view_rows": [0, 300]}, "view_rows contains 300"),
        ({"views": X[None, :2], "view_rows": [-1, 0]}, "view_rows contains -1"),
        ({"views": X[None, :2], "view_rows": [1, 1]}, "view_rows contains a row twice"),
        ({"views": X[None, :2], "view_rows": [1, 2, 3]}, r"expected \(V, 3, 12\)"),
        ({"views": X[None, :2], "view_rows": [0.5, 1]}, "view_rows has .* dtype float64"),
        ({"views": X[None, :0], "view_rows": []}, "view_rows has shape"),
    ],
)
def test_view_rows_that_do_not_fit(options, match):
    with pytest.raises(InvalidInputError, match=match):
        HiHPQIndex(D_IN, 2, device="cpu").train(X, recipe=SMALL, **options)


@pytest.mark.parametrize("nbits", [4, 8])
@pytest.mark.parametrize("n", [1, 2, 10, 255])
def test_few_images_give_a_working_index(n, nbits, tmp_path):
    x = make_x(n, seed=n)
    index = HiHPQIndex(D_IN, 4, nbits, device="cpu")
    index.train(x, epochs=2)
    index.add(x)
    D, I = index.search(x, 3)  # noqa: E741
    assert np.isfinite(D[:, : min(n, 3)]).all()
    assert (I[:, min(n, 3) :] == -1).all()
    # Each image is the nearest to itself: always with as many codewords, mostly with 16.
    itself = (I[:, 0] == np.arange(n)).mean()
    assert itself == 1 if n <= 10 else itself > 0.8
    index.save(tmp_path / "i")
    assert_same(HiHPQIndex.load(tmp_path / "i", device="cpu").search(x, 3), (D, I))


def test_trained_once_filled(filled):
    with Unchanged(filled, TrainingError, "train a new index"):
        filled.train(X, recipe=SMALL)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"views": np.zeros((2, 299, 12))}, r"views have shape \(2, 299, 12\)"),
        ({"views": np.zeros((300, 12))}, "views have shape"),
        ({"views": np.zeros((0, 300, 12))}, "views have shape"),
        ({"views": np.stack([X, with_value(np.nan)])}, r"views\[1\] has NaN.*row 3"),
        ({"views": np.stack([X]).astype(str)}, r"views\[0\] has dtype <U"),
        ({"views": [[1], [1, 2]]}, "views cannot be read"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": 2**70}, "seed is 11"),
        ({"recipe": "best"}, "recipe is 'best'"),
        ({"epoch": 3}, "no epoch"),
        ({"epochs": "3"}, "epochs is '3'"),
    ],
    ids=str,
)
def test_bad_training_options(options, match):
    index = HiHPQIndex(D_IN, 2, device="cpu")
    with pytest.raises(InvalidInputError, match=match) as caught:
        index.train(X, **{"recipe": SMALL, **options})
    assert "\n" not in str(caught.value)
    assert not index.is_trained


def test_nothing_to_train_on():
    index = HiHPQIndex(D_IN, 2, device="cpu")
    with pytest.raises(InvalidInputError, match="rows of x is 0"):
        index.train(X[:0])


def test_a_failed_training_keeps_the_codec(make):
    index = make()
    before = index.codec
    with pytest.raises(TrainingError):
        index.train(X, recipe=SMALL, lr=1e6)
    assert index.codec is before


def test_training_again_has_the_metric_that_was_asked_for():
    """``objective="fidelity"`` left its metric behind, with which no other recipe could train."""
    index = HiHPQIndex(D_IN, 2, metric="chord", device="cpu")
    index.train(X, objective="fidelity", epochs=1)
    assert index.metric == index.codec.metric == "cosine"
    index.train(X, recipe=SMALL)
    assert index.metric == index.codec.metric == "chord"
    direct = HiHPQIndex(D_IN, 2, metric="chord", device="cpu")
    direct.train(X, recipe=SMALL)
    assert to_files(index.codec) == to_files(direct.codec)
    index.train(X, objective="fidelity", epochs=1)
    # Nobody asked for the metric of a codec that comes from elsewhere.
    foreign = HiHPQIndex.from_codec(index.codec, device="cpu")
    assert foreign.metric == "cosine"
    foreign.train(X, recipe=SMALL)
    assert foreign.metric == "l1"
    index.add(X[:3])
    with pytest.raises(TrainingError, match="has 3 vectors"):
        index.train(X, recipe=SMALL)


def test_the_objective_of_the_constructor_holds_for_every_recipe():
    index = HiHPQIndex(D_IN, 2, objective="fidelity", device="cpu")
    for recipe in ("default", "paper", SMALL):
        index.train(X, recipe=recipe, epochs=0)
        assert index.objective == "fidelity"
    # The recipe of one's own says it, too.
    other = HiHPQIndex(D_IN, 2, device="cpu")
    other.train(X, recipe=SMALL.replace(objective="fidelity", epochs=0))
    assert to_files(other.codec) == to_files(index.codec)
    for metric in ("cosine", "inner"):
        named = HiHPQIndex(D_IN, 2, metric=metric, device="cpu")
        assert (named.objective, named.metric) == ("fidelity", "cosine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "exact"}, "'exact'; expected 'semantic', 'fidelity' or 'balanced'"),
        ({"objective": "semantic", "metric": "l2"}, "learn no representation; .* 'fidelity'"),
        ({"objective": "semantic", "metric": "inner"}, "'cosine' with the objective 'semantic'"),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        HiHPQIndex(D_IN, 2, device="cpu", **arguments)


def test_the_defaults_are_those_of_the_command_line():
    """64 bits: with 32, as it was, results of the same data differed between the two."""
    from hyperpq.images.build.options import BuildOptions

    index, options = HiHPQIndex(D_IN, device="cpu"), BuildOptions()
    assert index.M * index.nbits == options.bits == 64
    assert index.objective == options.objective
    assert index.metric == (options.metric or "l1")
    assert HiHPQNeighborsTransformer().M == HiHPQTransformer().M == index.M


def test_an_index_of_an_untrained_codec_is_refused():
    codec = HiHPQCodec(CodecConfig(D_IN, 2))
    with pytest.raises(NotTrainedError, match=r"HiHPQIndex\.train\(x\)"):
        HiHPQIndex.from_codec(codec)
    index = HiHPQIndex(D_IN, 2, device="cpu")
    index.codec = codec
    assert not index.is_trained
    with pytest.raises(NotTrainedError, match="the index is not trained"):
        index.add(X)
