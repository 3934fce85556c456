"""Which images the indexes of `benchmarks.growth` grow by: sets, kinds of images, and the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.featuresets import FeatureSet, open_set
from benchmarks.growth_page import QUERIES

Labels = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sets:
    """Where the data sets are.

    Attributes
    ----------
    scenes, cifar, drawn : Path or None
        Folders of images, not needed once the features are cached.
    cache : Path
        Folder of the features.
    """

    scenes: Path | None
    cifar: Path | None
    drawn: Path | None
    cache: Path

    def open(self, name: str) -> FeatureSet:
        """The features of a set."""
        if name == "scenes":
            return open_set(f"folder:{self.scenes or 'scenes15'}", None, self.cache)
        if name == "cifar":
            return open_set("cifar10-ii", self.cifar, self.cache)
        return open_set("drawn", self.drawn, self.cache)


@dataclass(frozen=True)
class Part:
    """Images of one kind in the order in which they are added, and queries.

    Attributes
    ----------
    x : ndarray, shape (n, d), float32
        Features.
    views : ndarray, shape (V, n, d), or None
        Features of their views, if they have any.
    labels : ndarray, shape (n,), int64
    query : ndarray, shape (nq, d), float32
    query_labels : ndarray, shape (nq,), int64
    """

    x: Floats
    views: Floats | None
    labels: Labels
    query: Floats
    query_labels: Labels


class Kind(NamedTuple):
    """Images of a set.

    Attributes
    ----------
    set : str
        A name that `Sets.open` knows.
    classes : sequence of int, optional
        Those of the set that are taken; all by default.
    views : bool
        Whether an index that is built anew learns from augmented views of them, too.
    first : int
        Added to the labels, so that classes of two sets differ.
    """

    set: str
    classes: Sequence[int] | None = None
    views: bool = True
    first: int = 0


@dataclass(frozen=True)
class Curve:
    """How an index grows.

    Attributes
    ----------
    name : str
        Title in the page.
    kinds : sequence of Kind
        The images.
    steps : sequence of tuple of int
        After each step, the number of images of each kind.
    """

    name: str
    kinds: Sequence[Kind]
    steps: Sequence[tuple[int, ...]]


def part_of(features: FeatureSet, kind: Kind, seed: int = 0) -> Part:
    """The training images of a kind in random order, and its queries."""
    labels = features.protocol.database.labels[features.train_rows]
    query_labels = features.protocol.query.labels
    chosen = np.random.default_rng(2 * seed).permutation(_rows_of(labels, kind.classes))
    query = np.random.default_rng(2 * seed + 1).permutation(len(features.query))
    query = query[np.isin(query, _rows_of(query_labels, kind.classes))][:QUERIES]
    return Part(
        features.train[chosen],
        np.asarray(features.views("mild"))[:, chosen] if kind.views else None,
        labels[chosen] + kind.first,
        features.query[query],
        query_labels[query] + kind.first,
    )


def _rows_of(labels: Labels, classes: Sequence[int] | None) -> Labels:
    return np.arange(len(labels)) if classes is None else np.flatnonzero(np.isin(labels, classes))


def unviewed(features: FeatureSet, classes: Sequence[int] | None = None) -> Part:
    """Images of a set, or of some of its classes, without views."""
    return part_of(features, Kind("", classes, views=False))


CURVES = (
    Curve("CIFAR-10, 5 to 5,000 images", [Kind("cifar")], [(5,), (50,), (500,), (5000,)]),
    Curve("15 scenes, 5 to 3,485 images", [Kind("scenes")], [(5,), (50,), (500,), (3485,)]),
    Curve(
        "15 scenes, a fiftieth more at a time",
        [Kind("scenes")],
        [(2000,), (2040,), (2080,), (2120,)],
    ),
    Curve(
        "CIFAR-10, one class, then ten",
        [Kind("cifar", (0,)), Kind("cifar", tuple(range(1, 10)))],
        [(400, 0), (400, 4), (400, 40), (400, 1600)],
    ),
    Curve(
        "Five scenes, then 15",
        [Kind("scenes", tuple(range(5))), Kind("scenes", tuple(range(5, 15)))],
        [(800, 0), (800, 8), (800, 40), (800, 400)],
    ),
    Curve(
        "15 scenes, then drawings",
        [Kind("scenes"), Kind("drawn", views=False, first=1000)],
        [(2000, 0), (2000, 20), (2000, 100), (2000, 1000)],
    ),
)
