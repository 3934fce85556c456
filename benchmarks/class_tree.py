"""Classes that are the leaves of a tree: their labels by level, and measures that use it.

The names of such classes are paths, such as ``Fruit/Apple/Granny-Smith``. A class that lies less
deep is its own parent: ``Vegetables/Garlic`` is a fine and a coarse class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.featuresets import FeatureSet

# Levels of a tree: a class, its parent and its root.
LEVELS = 3

Labels = NDArray[np.int64]


class TreeLabels(NamedTuple):
    """Labels of queries (nq, 3) and database (N, 3), from the leaves to the roots."""

    query: Labels
    database: Labels


def tree_labels(names: Sequence[str], leaves: Labels) -> Labels:
    """Labels (n, 3), from the leaves to the roots, of leaf labels (n,), whose names are paths."""
    columns = []
    for depth in range(LEVELS, 0, -1):
        paths = ["/".join(name.split("/")[:depth]) for name in names]
        columns.append(np.unique(paths, return_inverse=True)[1][leaves])
    return np.stack(columns, 1)


def labels_of(features: FeatureSet) -> TreeLabels:
    """The tree labels of a feature set."""
    protocol = features.protocol
    return TreeLabels(
        tree_labels(protocol.names, protocol.query.labels),
        tree_labels(protocol.names, protocol.database.labels),
    )


def level_sizes(labels: TreeLabels) -> tuple[int, ...]:
    """Number of classes of each level, from the leaves to the roots."""
    return tuple(int(column.max()) + 1 for column in labels.database.T)


def hierarchical_precision(labels: TreeLabels, found: Labels, k: int) -> float:
    """Mean over the queries of the similarity of the first k results, over the most there can be.

    The similarity of two images is the share of levels at which they are of one class, so a result
    of another kind of apple counts more than one of another fruit (hierarchical precision, Deng,
    Berg and Li, CVPR 2011; Barz and Denzler, "Hierarchy-based image embeddings for semantic image
    retrieval", WACV 2019, whose similarity this is where all leaves are equally deep).

    Parameters
    ----------
    labels : TreeLabels
    found : ndarray, shape (nq, at least k), int64
        Rows of the results of each query, nearest first.
    k : int

    Returns
    -------
    float
        From 0 to 1.
    """
    got = (labels.database[found[:, :k]] == labels.query[:, None]).mean(2)
    best = np.empty(len(found))
    for q, label in enumerate(labels.query):
        similar = (labels.database == label).mean(1)
        best[q] = np.partition(similar, len(similar) - k)[-k:].sum()
    return float((got.sum(1) / best).mean())
