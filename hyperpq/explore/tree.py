"""`Tree`: the rows of an index in nested clusters, made of their codes alone.

The codes are decoded to vectors. k-means reduces a sample of them to micro-clusters, each row goes
to the nearest one, and size-weighted Ward joins these, see `hyperpq.quantizers.ward`. No image is
read and no network runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.explore.dendrogram import Dendrogram
from hyperpq.explore.labels import Label, labels_of
from hyperpq.explore.micro import MicroClusters
from hyperpq.progress import ProgressLike
from hyperpq.quantizers.ward import weighted_ward
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.index.reader import IndexView

DEFAULT_LEVELS = (4, 16, 64, 256)
"""Clusters of the levels below the root, as far as the rows are enough."""
MAX_CLUSTERS = 1000
"""Clusters of a level at most: Ward compares all pairs of 5 times as many micro-clusters."""
# Rows that a cluster of a level has on average, at least, unless levels are asked for.
_MIN_ROWS = 4
_REPRESENTATIVES = 9


@dataclass(frozen=True)
class Cluster:
    """Rows that are like each other.

    Attributes
    ----------
    number : int
        Its place in `Tree.clusters`.
    level : int
        The first level that it belongs to; the root alone has level 0.
    parent : int or None
        Number of the cluster that it is part of; None for the root.
    children : tuple of int
        Numbers of its parts, in the order of the tree; none for the finest clusters.
    start, stop : int
        Its rows have the ids ``tree.ids[start:stop]``.
    representatives : tuple of int
        Ids of some rows, at most 9: first the one nearest to the mean, then those nearest to the
        means of its parts, the largest part first.
    spread : float
        Root mean square distance of its vectors to their mean, in the space of the decoded codes.
    labels : tuple of Label
        What its rows have in common, the largest share first, at most 3.
    """

    number: int
    level: int
    parent: int | None
    children: tuple[int, ...]
    start: int
    stop: int
    representatives: tuple[int, ...]
    spread: float
    labels: tuple[Label, ...] = ()

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.stop - self.start

    @property
    def title(self) -> str:
        """A name for people: what more than half of the rows share, or the largest shares."""
        if self.parent is None:
            return "all"
        if self.labels and self.labels[0].share > 0.5:
            return self.labels[0].text
        return ", ".join(label.text for label in self.labels) or f"group {self.number}"

    def to_json(self) -> dict[str, Any]:
        """The cluster as JSON types, without its rows."""
        return {
            "number": self.number,
            "level": self.level,
            "parent": self.parent,
            "children": list(self.children),
            "size": self.size,
            "representatives": list(self.representatives),
            "spread": self.spread,
            "title": self.title,
            "labels": [label.to_json() for label in self.labels],
        }


@dataclass(frozen=True, eq=False)
class Tree:
    """Nested clusters of all rows of an index.

    Attributes
    ----------
    ids : ndarray, shape (n,), int64
        Ids of all rows in the order of the tree: the rows of a cluster follow each other, like ones
        are near, and within the finest parts the most typical one is first.
    clusters : tuple of Cluster
        The root, then the others level by level, each level in the order of the tree.
    levels : tuple of int
        Number of clusters of each level; the first is 1, for the root.
    sample : int
        Rows that the micro-clusters were made of.
    """

    ids: NDArray[np.int64]
    clusters: tuple[Cluster, ...]
    levels: tuple[int, ...]
    sample: int

    @classmethod
    def of(
        cls,
        view: IndexView,
        levels: Sequence[int] | None = None,
        *,
        seed: int = 0,
        progress: ProgressLike = None,
    ) -> Tree:
        """Cluster the rows of an index.

        The same rows, codec, levels and seed give the same tree on one machine.

        Parameters
        ----------
        view : IndexView
            The index at one moment, as `HiHPQIndex.view` returns it.
        levels : sequence of int, optional
            Clusters of each level below the root, ascending, up to `MAX_CLUSTERS`. By default
            `DEFAULT_LEVELS`, as long as a cluster has 4 rows on average.
        seed : int
            Of the sample and of k-means.
        progress : Progress or bool, optional
            Where to report; True draws bars on stderr.

        Raises
        ------
        NotTrainedError
            If the index has no codec.
        InvalidInputError
            If the levels are not possible, or more than there are different codes; or if there is
            no row.
        MissingDependencyError
            If there are many rows and faiss is not installed.

        Notes
        -----
        Up to 1,280 different codes (5 for each cluster of the finest level, at least 1,000) are
        clustered as they are. Of more, k-means sees a sample of 100,000 rows at most, fewer if
        decoded vectors are wide, and each row belongs to the nearest centroid. Memory holds the
        sample, the costs of all pairs of micro-clusters (8 bytes each) and 24 bytes for each row.
        """
        wanted = None if levels is None else _checked(levels)
        # The same micro-clusters for all, so that other levels are other cuts of one tree.
        finest = max((DEFAULT_LEVELS[-1], *(wanted or ())))
        micro = MicroClusters.of(view, finest, seed=seed, progress=progress)
        if wanted is None:
            most = min(micro.m, view.ntotal // _MIN_ROWS)
            wanted = tuple(level for level in DEFAULT_LEVELS if level <= most)
        elif wanted and wanted[-1] > micro.m:
            raise InvalidInputError(
                f"{wanted[-1]} clusters are asked for; expected at most {micro.m}, the number of "
                "different codes."
            )
        pairs, _ = weighted_ward(micro.centers, micro.sizes)
        made = _Made(micro, Dendrogram.of(pairs, micro.first_principal()), wanted)
        clusters = made.clusters()
        labels = labels_of(view, made.ids, [(c.start, c.stop, c.children) for c in clusters])
        named = [replace(c, labels=own) for c, own in zip(clusters, labels, strict=True)]
        return cls(made.ids, tuple(named), (1, *wanted), micro.sample)

    @property
    def root(self) -> Cluster:
        """The cluster of all rows."""
        return self.clusters[0]

    def ids_of(self, number: int) -> NDArray[np.int64]:
        """Ids of the rows of a cluster, in the order of the tree.

        Raises
        ------
        InvalidInputError
            If there is no cluster with this number.
        """
        cluster = self.clusters[as_count(number, "cluster", 0, len(self.clusters) - 1)]
        return self.ids[cluster.start : cluster.stop]

    def at_level(self, level: int) -> list[Cluster]:
        """The clusters of a level in the order of the tree; together they have all rows.

        Raises
        ------
        InvalidInputError
            If there is no such level.
        """
        level = as_count(level, "level", 0, len(self.levels) - 1)
        found = [
            c
            for c in self.clusters
            if c.level <= level and (not c.children or self.clusters[c.children[0]].level > level)
        ]
        return sorted(found, key=lambda c: c.start)

    def ancestors(self, number: int) -> list[Cluster]:
        """The clusters that a cluster is part of, the root first and the cluster itself last."""
        at: int | None = as_count(number, "cluster", 0, len(self.clusters) - 1)
        out: list[Cluster] = []
        while at is not None:
            out.append(self.clusters[at])
            at = self.clusters[at].parent
        return out[::-1]


def _checked(levels: Sequence[int]) -> tuple[int, ...]:
    counts = [as_count(level, "clusters of a level", 2, MAX_CLUSTERS) for level in levels]
    if sorted(set(counts)) != counts:
        raise InvalidInputError(
            f"levels are {', '.join(map(str, counts))}; expected numbers of clusters that ascend."
        )
    return tuple(counts)


class _Made:
    """Clusters of a dendrogram of micro-clusters."""

    def __init__(
        self, micro: MicroClusters, dendrogram: Dendrogram, levels: tuple[int, ...]
    ) -> None:
        self.micro, self.tree, self.levels = micro, dendrogram, levels
        order = dendrogram.order
        self.ids = micro.ids_in(order)
        self._row = np.concatenate([[0], np.cumsum(micro.sizes[order])])
        weights = micro.sizes[order].astype(np.float64)
        centers = micro.centers[order].astype(np.float64)
        self._sums = _running(weights[:, None] * centers)
        inner = micro.squares[order] + weights * (centers * centers).sum(1)
        self._squares = _running(inner)

    def clusters(self) -> list[Cluster]:
        """All clusters, without labels."""
        nodes, level_of, parent_of = [self.tree.root], [0], [-1]
        number_of = {self.tree.root: 0}
        above = {self.tree.root: self.tree.root}
        for level, count in enumerate(self.levels, 1):
            cut = self.tree.cut(count)
            starts = {int(self.tree.start[node]): node for node in sorted(above)}
            below: dict[int, int] = {}
            owner = self.tree.root
            for node in cut:
                owner = starts.get(int(self.tree.start[node]), owner)
                below[node] = owner
                if node not in number_of:
                    number_of[node] = len(nodes)
                    nodes.append(node)
                    level_of.append(level)
                    parent_of.append(number_of[owner])
            above = below
        children: list[list[int]] = [[] for _ in nodes]
        for number, parent in enumerate(parent_of):
            if parent >= 0:
                children[parent].append(number)
        return [
            Cluster(
                number,
                level_of[number],
                parent_of[number] if number else None,
                tuple(children[number]),
                *self._rows_of(node),
                self._representatives(node),
                self._spread(node),
            )
            for number, node in enumerate(nodes)
        ]

    def _rows_of(self, node: int) -> tuple[int, int]:
        start, stop = self.tree.start[node], self.tree.stop[node]
        return int(self._row[start]), int(self._row[stop])

    def _mean(self, node: int) -> NDArray[np.float64]:
        start, stop = self.tree.start[node], self.tree.stop[node]
        n = self._row[stop] - self._row[start]
        mean: NDArray[np.float64] = (self._sums[stop] - self._sums[start]) / n
        return mean

    def _spread(self, node: int) -> float:
        start, stop = self.tree.start[node], self.tree.stop[node]
        n, mean = self._row[stop] - self._row[start], self._mean(node)
        square = float(self._squares[stop] - self._squares[start]) / n - float(mean @ mean)
        return float(np.sqrt(max(square, 0.0)))

    def _medoid(self, node: int) -> int:
        """The id of a typical row nearest to the mean."""
        own = self.tree.order[self.tree.start[node] : self.tree.stop[node]]
        gap = self.micro.centers[own] - self._mean(node)
        return int(self.micro.medoids[own[np.square(gap).sum(1).argmin()]])

    def _representatives(self, node: int) -> tuple[int, ...]:
        start, stop = self._rows_of(node)
        parts = self.tree.split(node, _REPRESENTATIVES)
        parts.sort(key=lambda n: self._rows_of(n)[0] - self._rows_of(n)[1])
        chosen = [self._medoid(node), *map(self._medoid, parts)]
        # A part that has few micro-clusters shows further rows.
        count = min(_REPRESENTATIVES, stop - start)
        spaced = start + np.arange(count) * (stop - start) // count
        chosen += self.ids[spaced].tolist()
        return tuple(dict.fromkeys(chosen))[:_REPRESENTATIVES]


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first 0, 1, 2, ... rows."""
    out = np.zeros((len(values) + 1, *values.shape[1:]))
    np.cumsum(values, 0, out=out[1:])
    return out
