"""Rows of indexes whose images move."""

from __future__ import annotations

import os

import numpy as np
from image_tools import Grid, fill, paths_of, update

from hyperpq import ImageIndex
from hyperpq.datasets.decode import open_image
from hyperpq.datasets.preprocessing import to_pixels
from hyperpq.images.roots import recorded_roots


def rows_of(index):
    """Id by path of each image."""
    view = index.index.collection.view()
    return dict(zip(map(os.fsdecode, view.paths_of(view.ids)), view.ids.tolist(), strict=True))


def unchanged_rows(index, before):
    """Whether an index has the codes and features of another for the same ids."""
    ids = index.index.ids
    same = (index.index.codes_of(ids) == before.index.codes_of(ids)).all()
    return same and (index.index.features_of(ids) == before.index.features_of(ids)).all()


def check_rows(index):
    """Each row has the features of the image that is at its path."""
    paths = paths_of(index)
    rows = rows_of(index)
    encoded = index.encode(paths)
    kept = index.index.features_of([rows[path] for path in paths])
    want = [Grid()(pixels_of(path)[None])[0] for path in paths]
    scale = np.abs(want).max(axis=1, keepdims=True) / 127
    assert (np.abs(kept - want) <= 0.51 * scale).all()
    assert encoded.skipped == {}


def pixels_of(path):
    prep = Grid().preprocessing
    return to_pixels(open_image(os.fsencode(path), shrink_to=prep.decode_side), prep)


def opened(place):
    return ImageIndex.open(place / "index", device="cpu", backbone=Grid())


def single_images(place, *names):
    """Copies of images of another folder, which the index records one by one."""
    fill(place / "one", len(names), start=80)
    (place / "one/note.txt").write_text("a folder without a file may be a mount point")
    for number, name in enumerate(names, 80):
        (place / f"one/{number:03}.png").rename(place / "one" / name)
    roots = [place / "one" / name for name in names]
    update(roots, place / "index")
    return roots


def roots_of(place):
    return {os.fsdecode(root.path) for root in recorded_roots(opened(place).index)}
