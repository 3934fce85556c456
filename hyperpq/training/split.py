"""`TrainingSplit`: which of the training images have views, are held out, or are learned from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperpq.training.recipe import Recipe

# With fewer images there is nothing to contrast.
MIN_TRAINING_IMAGES = 16
# Fewest images that the acceptance check holds some out of.
MIN_CHECKED_IMAGES = 160
# Of these, one in `_HELD_OUT_ONE_OF` is held out, and at most so many.
_HELD_OUT_ONE_OF, MAX_HELD_OUT = 10, 256
# Most images that views are made of in feature space. The others are on the graph all the same.
MAX_MADE_VIEWS = 8192


@dataclass(frozen=True)
class TrainingSplit:
    """The parts that the rows of the training features play; see `split_rows`.

    All but ``held_out`` are rows of the training features ``x``, each at most once.

    Attributes
    ----------
    view_rows : ndarray, shape (v,), int64
        Rows that have views: those of the given views, or those that views are made of.
    check_rows : ndarray, shape (c,), int64
        Rows that the acceptance check takes its images from.
    held_out : ndarray, shape (h,), int64
        Sorted positions in ``check_rows`` of the images that learning does not see, and that the
        acceptance check asks for. Empty if the recipe has no check or the images are too few.
    learning_rows : ndarray, shape (m,), int64
        Sorted rows that are learned from.
    has_image_views : bool
        Whether the views are those of augmented images; otherwise they are made in feature space.
    check_has_views : bool
        Whether ``check_rows`` are ``view_rows``. Otherwise too few images have views to check with,
        and the check needs views of its own, made in feature space.
    is_enough : bool
        Whether there are images enough to learn from, and to check with if the recipe says so.
    """

    view_rows: NDArray[np.int64]
    check_rows: NDArray[np.int64]
    held_out: NDArray[np.int64]
    learning_rows: NDArray[np.int64]
    has_image_views: bool
    check_has_views: bool
    is_enough: bool

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """Rows of the held-out images, shape (h,)."""
        return self.check_rows[self.held_out]


def split_rows(
    n: int, recipe: Recipe, view_rows: NDArray[np.int64] | None = None, *, seed: int
) -> TrainingSplit:
    """Give each of n training images its part.

    Parameters
    ----------
    n : int
        Training images.
    recipe : Recipe
        Says whether some are held out, and whether images without views can be learned from: they
        can on the graph; without it the positive of a view is another view of the same image.
    view_rows : ndarray, shape (v,), int64, optional
        Rows with views of augmented images. Without any, views are to be made in feature space, of
        all rows or, with a graph, of `MAX_MADE_VIEWS` random ones.
    seed : int
        Of the random choices.

    Returns
    -------
    TrainingSplit
    """
    has_graph = recipe.graph.graph_neighbours > 0
    every = np.arange(n)
    if view_rows is not None:
        with_views = view_rows
    else:
        with_views = _random_rows(n, seed) if has_graph and n > MAX_MADE_VIEWS else every
    check_has_views = view_rows is None or len(with_views) >= MIN_CHECKED_IMAGES
    check_rows = with_views if check_has_views else _random_rows(n, seed)
    held_out = hold_out(len(check_rows), seed) if recipe.holdout_check else every[:0]
    return TrainingSplit(
        view_rows=with_views,
        check_rows=check_rows,
        held_out=held_out,
        learning_rows=np.setdiff1d(every if has_graph else with_views, check_rows[held_out]),
        has_image_views=view_rows is not None,
        check_has_views=check_has_views,
        is_enough=n >= MIN_TRAINING_IMAGES and (len(held_out) > 0 or not recipe.holdout_check),
    )


def hold_out(n: int, seed: int) -> NDArray[np.int64]:
    """Sorted positions of the images to hold out of n; none of fewer than `MIN_CHECKED_IMAGES`."""
    order = np.random.default_rng(seed).permutation(n)
    count = min(n // _HELD_OUT_ONE_OF, MAX_HELD_OUT) if n >= MIN_CHECKED_IMAGES else 0
    return np.sort(order[:count])


def _random_rows(n: int, seed: int) -> NDArray[np.int64]:
    """Sorted random rows of n, `MAX_MADE_VIEWS` of them or all."""
    rows = np.random.default_rng(seed).choice(n, min(n, MAX_MADE_VIEWS), replace=False)
    return np.sort(rows)
