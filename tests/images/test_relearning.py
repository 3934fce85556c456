"""When the codec of an index is learned again, and what is said where it is not."""

import logging

import numpy as np
import pytest
import torch

from hyperpq import HiHPQIndex
from hyperpq.errors import InvalidInputError, TrainingError
from hyperpq.images.relearning import (
    WARNING_POLICY,
    RelearnPolicy,
    describe_training,
    relearn_if_needed,
)
from hyperpq.index.training_record import TrainingRecord
from hyperpq.training.fit import FitStatistics

D = 32


def features(kind, n, seed):
    """n features of a kind: around five directions of its own, beside what all have."""
    centers = np.random.default_rng(kind).normal(size=(5, D))
    rng = np.random.default_rng(seed)
    return (3 + centers[rng.integers(0, 5, n)] + 0.5 * rng.normal(size=(n, D))).astype(np.float32)


def make_index(x, keep="int8"):
    """An index of features whose codec was learned from them; PCA and k-means, to be quick."""
    index = HiHPQIndex(D, M=2, nbits=4, features=keep, device="cpu")
    index.train(x, epochs=0, width=8, subspaces=2)
    index.add(x)
    return index


def record(n, learned=True):
    return TrainingRecord(n, "semantic", learned, FitStatistics(b"", 0.0))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        # Few images: whenever there are more.
        (50, 50, False),
        (50, 51, True),
        (1000, 1001, True),
        # A twentieth, or a quarter more.
        (1001, 1051, False),
        (1001, 1052, True),
        (5000, 5250, False),
        (5000, 5251, True),
        (6000, 7500, False),
        (6000, 7501, True),
        # The largest sample is what counts.
        (20_000, 10**7, False),
        (19_999, 10**7, True),
        (25_000, 10**7, False),
        # Removal is no growth.
        (1000, 10, False),
    ],
)
def test_growth(before, now, expected):
    reason = RelearnPolicy().reason(now, record(before))
    assert (reason is not None) == expected
    if reason:
        assert reason == f"the index learned from {before:,} images and has {now:,} now"


def test_growth_up_to_a_sample_of_ones_own():
    assert RelearnPolicy().reason(10**6, record(1000), train_size=1000) is None
    assert RelearnPolicy().reason(10**6, record(1000), train_size=1200)


@pytest.mark.parametrize(
    ("n", "unlike", "expected"),
    [(1000, 0.019, False), (5000, 0.02, True), (6000, 0.049, False), (6000, 0.05, True)],
)
def test_images_of_another_kind(n, unlike, expected):
    reason = RelearnPolicy().reason(n, record(n), unlike)
    assert (reason is not None) == expected
    if reason:
        assert reason.endswith(
            "% of the images are of another kind than those that the index learned from"
        )


def test_learning_begins_with_160_images():
    """Whatever the limits are: fewer only have PCA and k-means."""
    assert WARNING_POLICY.reason(159, record(150)) is None
    assert WARNING_POLICY.reason(160, record(150))
    assert WARNING_POLICY.reason(170, record(160)) is None


def test_a_warning_waits_for_twice_as_many():
    assert WARNING_POLICY.reason(2000, record(1000)) is None
    assert WARNING_POLICY.reason(2001, record(1000))


def test_more_of_the_same_changes_nothing(caplog):
    index = make_index(features(0, 1200, 1))
    codec = index.codec
    index.add(features(0, 50, 2))
    assert relearn_if_needed(index) is None
    assert index.codec is codec
    assert not caplog.records


def test_growth_is_learned_from():
    index = make_index(features(0, 300, 1))
    before = index.codec
    index.add(features(0, 60, 2))
    assert relearn_if_needed(index) == "the index learned from 300 images and has 360 now"
    assert index.codec is not before
    assert index.training.n == 360
    # It fits then.
    assert relearn_if_needed(index) is None


def test_another_kind_is_learned_from():
    index = make_index(features(0, 1200, 1))
    index.add(features(1, 50, 2))
    assert "of another kind" in relearn_if_needed(index)
    assert index.training.n == 1250
    assert relearn_if_needed(index) is None


def test_never_warns_and_names_the_remedy(caplog):
    index = make_index(features(0, 200, 1))
    codec = index.codec
    index.add(features(0, 200, 2))
    assert relearn_if_needed(index, "never") is None
    assert not caplog.records
    index.add(features(0, 1, 3))
    assert relearn_if_needed(index, "never") is None
    assert index.codec is codec
    (warning,) = caplog.records
    assert warning.message == (
        "the index learned from 200 images and has 401 now, so its results are worse than they "
        "could be; let it learn again: `hyperpq update --relearn`, or images.retrain() in Python."
    )


def test_without_features_it_warns_and_names_the_remedy(caplog):
    index = make_index(features(0, 200, 1), keep="none")
    index.add(features(0, 200, 2))
    assert relearn_if_needed(index) is None
    assert not caplog.records
    index.add(features(0, 1, 3))
    assert relearn_if_needed(index) is None
    (warning,) = caplog.records
    assert "the index learned from about 200 images and has 401 now" in warning.message
    assert "keeps no features to learn from, so build it anew" in warning.message


def test_a_codec_that_was_given_is_left_alone(caplog):
    index = HiHPQIndex.from_codec(make_index(features(0, 200, 1)).codec, features="int8")
    index.add(features(1, 900, 2))
    assert relearn_if_needed(index) is None
    assert not caplog.records


def test_now_learns_in_any_case():
    index = make_index(features(0, 200, 1))
    before = index.codec
    assert relearn_if_needed(index, "now", train_size=170) == "it was asked for"
    assert index.codec is not before
    assert index.training.n == 170


def test_now_needs_features():
    index = make_index(features(0, 200, 1), keep="none")
    with pytest.raises(InvalidInputError, match="keeps no features"):
        relearn_if_needed(index, "now")


def test_a_mode_that_is_not_known():
    with pytest.raises(InvalidInputError, match="relearn is 'always'; expected"):
        relearn_if_needed(make_index(features(0, 20, 1)), "always")


def test_a_failure_keeps_what_is_stored(monkeypatch, caplog):
    index = make_index(features(0, 200, 1))
    codec = index.codec
    index.add(features(0, 200, 2))

    def fail(*_, **__):
        raise TrainingError("training diverged.")

    monkeypatch.setattr(index, "retrain", fail)
    with caplog.at_level(logging.WARNING):
        assert relearn_if_needed(index) is None
    assert "it could not learn again and stays as it was: training diverged." in caplog.text
    assert index.codec is codec
    assert index.ntotal == 400
    with pytest.raises(TrainingError):
        relearn_if_needed(index, "now")


def test_an_index_without_images():
    index = make_index(features(0, 200, 1))
    index.remove_ids(index.ids)
    assert relearn_if_needed(index) is None


def test_description():
    index = make_index(features(0, 1001, 1))
    shown = describe_training(index.view())
    assert shown["learned from"].startswith("1,001 images; PCA and k-means")
    assert shown["fit"] == "good: learned from all 1,001 images, all are of the same kind"
    index.add(features(0, 5, 2))
    shown = describe_training(index.view())
    assert shown["fit"] == "good: learned from 1,001 of 1,006 images, all are of the same kind"
    index.add(features(1, 995, 2))
    shown = describe_training(index.view(), "vectors")
    assert shown["fit"].startswith(
        "outgrown, learn again with retrain(): learned from 1,001 of 2,001 vectors, "
    )
    assert shown["fit"].endswith("% are of another kind")
    index.remove_ids(index.ids[300:])
    assert "learned from 1,001 images, " in describe_training(index.view())["fit"]


def test_description_without_a_record():
    index = make_index(features(0, 200, 1), keep="none")
    assert describe_training(index.view()) == {"learned from": "200 images"}
    for n, said in ((1, "1 image"), (4096, "4,096 images"), (4097, "4,097 images or more")):
        index.codec.keep_sample(torch.zeros(n, 1, 1))
        assert describe_training(index.view()) == {"learned from": said}
    index.add(features(0, 1, 1))
    plain = HiHPQIndex(D, M=2, nbits=4, metric="l2", device="cpu")
    plain.train(features(0, 200, 1))
    assert describe_training(plain.view()) == {"learned from": "not recorded"}
