"""The acceptance check: learning that doesn't help is not kept, and learning that does is."""

from __future__ import annotations

import logging
import re

import numpy as np
import pytest

from hyperpq.codec.serialization import to_files
from hyperpq.evaluation import mean_average_precision
from hyperpq.scan import search
from hyperpq.training.holdout_check import HoldoutCheck
from hyperpq.training.recipe import Recipe
from hyperpq.training.split import hold_out
from hyperpq.training.train import train_codec

QUICK = Recipe().replace(
    width=32, subspaces=4, hidden=64, epochs=12, batch=128, graph_neighbours=10
)


def noise(n=900):
    return np.random.default_rng(0).normal(size=(n, 48)).astype(np.float32)


def structured(n=1500):
    """Classes on curved sheets, which PCA can't unfold."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, n)
    at = rng.normal(size=(n, 3))
    maps = rng.normal(size=(10, 3, 48))
    bent = (
        np.sin(np.einsum("nd,ndk->nk", at, maps[labels])) + 0.15 * rng.normal(size=(10, 48))[labels]
    )
    return (bent + 0.2 * rng.normal(size=(n, 48))).astype(np.float32), labels


def shuffled():
    x, _ = structured(900)
    rng = np.random.default_rng(1)
    return np.stack([rng.permutation(column) for column in x.T], 1)


@pytest.mark.parametrize(
    "make", [noise, shuffled, lambda: noise(300)], ids=["noise", "shuffled", "300"]
)
def test_without_structure_the_codec_is_its_start(make, caplog):
    x = make()
    with caplog.at_level(logging.WARNING):
        codec = train_codec(x, M=4, recipe=QUICK)
    said = r"learning is left out, .* for (\d+) items .* \(agreement 0\.\d+, 0\.\d+ without it; "
    [(held_out,)] = [found.groups() for m in caplog.messages if (found := re.match(said, m))]
    assert int(held_out) == len(hold_out(len(x), 0))
    start = train_codec(x, M=4, recipe=QUICK.replace(epochs=0))
    np.testing.assert_array_equal(codec.encode(x), start.encode(x))
    assert not codec.is_learned
    assert not start.is_learned
    assert not codec.with_bits(16).is_learned


def quality(codec, x, labels, n, k):
    """MAP of the rows from n on, among those before."""
    found = search(codec.tables(x[n:]), codec.encode(x[:n]), k)[1]
    return mean_average_precision(labels[found] == labels[n:, None], k)


def test_with_structure_it_learns_and_finds_more_of_the_class(caplog):
    x, labels = structured()
    with caplog.at_level(logging.INFO):
        codec = train_codec(x[:1300], M=2, recipe=QUICK)
    assert "learning is left out" not in caplog.text
    assert "held-out items" in caplog.text
    start = train_codec(x[:1300], M=2, recipe=QUICK.replace(epochs=0))

    assert quality(codec, x, labels, 1300, 50) > quality(start, x, labels, 1300, 50) + 0.01


def test_a_small_set_of_many_classes_learns():
    """Walks that end anywhere would teach nothing here, and walks too near would refuse it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 15, 800)
    x = (0.5 * rng.normal(size=(15, 96))[labels] + rng.normal(size=(800, 96))).astype(np.float32)
    recipe = QUICK.replace(graph_neighbours=20)
    codec = train_codec(x[:500], M=2, recipe=recipe)
    start = train_codec(x[:500], M=2, recipe=recipe.replace(epochs=0))
    assert codec.is_learned
    assert codec.with_bits(16).is_learned

    assert quality(codec, x, labels, 500, 20) > quality(start, x, labels, 500, 20) + 0.08


def test_one_verdict_for_all_lengths_of_a_code(caplog):
    """The representation is the same, so a short code is no reason to refuse it."""
    x, _ = structured(600)
    with caplog.at_level(logging.INFO):
        for M in (1, 2):
            train_codec(x, M=M, recipe=QUICK.replace(epochs=2))
    verdicts = [text for text in caplog.messages if text.startswith("agreement of")]
    assert len(verdicts) == 2
    assert verdicts[0] == verdicts[1]


def test_few_views_of_many_images_are_no_reason_to_refuse(caplog):
    x, _ = structured()
    rows = np.arange(0, 1500, 50)
    views = x[None, rows] + 0.01
    with caplog.at_level(logging.INFO):
        train_codec(x, views, view_rows=rows, M=2, recipe=QUICK)
    assert "too few" not in caplog.text
    assert "agreement of 150 held-out items" in caplog.text


def test_agreement_of_a_collapsed_codec_is_low():
    x, _ = structured()
    codec = train_codec(x, M=2, recipe=QUICK.replace(epochs=0))
    held = hold_out(len(x), 0)
    check = HoldoutCheck(codec, x, x[None], held, has_image_views=False)
    good = check.agreement(codec)
    codec.weight.data.zero_()
    bad = check.agreement(codec)
    assert 0 <= bad < good / 2
    assert good <= 1


@pytest.mark.parametrize(
    "n, check, said",
    [
        (159, True, "159 items are too few to learn from, which takes 160 or more: the codes are"),
        (1, True, "1 item is too few to learn from, which takes 160 or more: the codes are those"),
        (15, False, "15 items are too few to learn from, which takes 16 or more: the codes are"),
    ],
)
def test_too_few_to_learn_from(caplog, n, check, said):
    x = noise(n)
    with caplog.at_level(logging.WARNING):
        codec = train_codec(x, M=2, recipe=QUICK.replace(holdout_check=check))
    assert any(message.startswith(said) for message in caplog.messages)
    assert not codec.is_learned
    assert to_files(codec).keys() == {"codec.safetensors", "codec.json"}
