"""Small images, a network that needs no weights, and builds with it."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from hyperpq.backbones.base import Backbone
from hyperpq.datasets.preprocessing import Preprocessing
from hyperpq.errors import BackboneError
from hyperpq.images.build import build_index

SIDE = 16


class Grid(Backbone):
    """Mean colour of each of 4 x 4 cells; counts the images that it sees."""

    def __init__(self):
        prep = Preprocessing(SIDE, "squash", 1.0, "bicubic")
        super().__init__("lite0", 48, prep, "0" * 32, "cpu", mean=None, std=None)
        self.seen = 0
        self.fails_after = None

    def _features(self, pixels):
        self.seen += len(pixels)
        if self.fails_after is not None and self.seen > self.fails_after:
            raise BackboneError("the network failed")
        cells = pixels.reshape(len(pixels), 4, SIDE // 4, 4, SIDE // 4, 3)
        return cells.mean((2, 4), dtype=np.float64).reshape(len(pixels), 48).astype(np.float32)


def image(seed, size=(32, 24)):
    """An image with a few patches of colour, different for each seed."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize(size)


def fill(folder, count, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        image(i).save(folder / f"{i:03}.png")
    return folder


def build(roots, path, network=None, **options):
    # A given codec is not trained.
    options = {"device": "cpu", **({} if "codec" in options else {"epochs": 1}), **options}
    return build_index(roots, path, backbone=network or Grid(), **options)


def update(roots, path, network=None, **options):
    return build_index(roots, path, backbone=network or Grid(), device="cpu", **options)


def paths_of(index):
    return [os.fsdecode(path) for path in index.paths()]


def tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
