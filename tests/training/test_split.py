"""Which images have views, are held out, or are learned from."""

from __future__ import annotations

import numpy as np
import pytest

from hyperpq.training import split as module
from hyperpq.training.recipe import Recipe
from hyperpq.training.split import MAX_MADE_VIEWS, hold_out, split_rows

GRAPH = Recipe()
NO_GRAPH = Recipe().replace(graph_neighbours=0)
UNCHECKED = Recipe().replace(holdout_check=False)


def same(a, b):
    return a.shape == b.shape and (a == b).all()


def test_rows_are_held_out_once():
    for n in (1, 159, 160, 300, 100_000):
        held = hold_out(n, 0)
        assert (np.diff(held) > 0).all()
        assert len(held) == 0 or 0 <= held[0] <= held[-1] < n
        assert len(held) == (0 if n < 160 else min(n // 10, 256))
    assert (hold_out(300, 0) != hold_out(300, 1)).any()


@pytest.mark.parametrize("n", [160, 1000, 9000])
@pytest.mark.parametrize("recipe", [GRAPH, NO_GRAPH, UNCHECKED], ids=["graph", "none", "unchecked"])
@pytest.mark.parametrize("share", [None, 1, 0.5, 0.01])
def test_parts_of_any_split(n, recipe, share):
    """No row twice, nothing learned that is held out, and all else that can be learned from."""
    rng = np.random.default_rng(n)
    views = None if share is None else rng.permutation(n)[: max(1, int(share * n))]
    split = split_rows(n, recipe, views, seed=3)
    for rows in (split.view_rows, split.check_rows, split.learning_rows):
        assert len(np.unique(rows)) == len(rows)
        assert rows.min() >= 0
        assert rows.max() < n
    assert same(split.held_out_rows, split.check_rows[split.held_out])
    assert not np.isin(split.held_out_rows, split.learning_rows).any()
    possible = np.arange(n) if recipe.graph.graph_neighbours else np.sort(split.view_rows)
    assert same(split.learning_rows, np.setdiff1d(possible, split.held_out_rows))
    assert (len(split.held_out) > 0) == recipe.holdout_check
    assert split.is_enough
    assert split.has_image_views == (views is not None)
    if views is not None:
        assert same(split.view_rows, views)
    again = split_rows(n, recipe, views, seed=3)
    assert all(
        same(a, b)
        for a, b in zip(vars(split).values(), vars(again).values(), strict=True)
        if isinstance(a, np.ndarray)
    )


def test_views_are_made_of_some_of_many_images():
    n = MAX_MADE_VIEWS + 100
    split = split_rows(n, GRAPH, seed=0)
    assert len(split.view_rows) == MAX_MADE_VIEWS
    assert (np.diff(split.view_rows) > 0).all()
    # The others are on the graph; what is held out has views.
    assert len(split.learning_rows) == n - len(split.held_out)
    assert split.check_has_views
    assert same(split.check_rows, split.view_rows)
    # Without a graph an image without views has no positive.
    assert same(split_rows(n, NO_GRAPH, seed=0).view_rows, np.arange(n))


def test_few_views_of_many_images_leave_the_check_to_all():
    views = np.arange(0, 1500, 50)
    split = split_rows(1500, GRAPH, views, seed=0)
    assert not split.check_has_views
    assert len(split.check_rows) == 1500
    assert len(split.held_out) == 150
    assert split_rows(1500, GRAPH, np.arange(160), seed=0).check_has_views


@pytest.mark.parametrize(
    ("n", "recipe", "enough"),
    [(15, UNCHECKED, False), (16, UNCHECKED, True), (159, GRAPH, False), (160, GRAPH, True)],
)
def test_too_few_images(n, recipe, enough):
    assert split_rows(n, recipe, seed=0).is_enough == enough
    assert (module.MIN_TRAINING_IMAGES, module.MIN_CHECKED_IMAGES) == (16, 160)
