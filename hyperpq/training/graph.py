"""The neighbour graph of the training features, and the random walk on it that training imitates.

Neighbours of neighbours say more about what belongs together than distances do: a walk of several
steps on the graph stays inside dense regions. The probability that a walk of ``steps`` steps leads
from one image to another, divided by the degree of the latter, is their *affinity*, which the
contrastive loss learns. It is the product of two rows of one sparse matrix, the *walk factor*,
which has the probabilities after half the steps. Each of its rows is truncated to the largest
entries, as many as the *support* of a walk is limited to; so memory grows with the number of
images, not with its square.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.codec.hihpq import HiHPQCodec
from hyperpq.codec.sample import evenly
from hyperpq.quantizers.kmeans import import_faiss, on_device
from hyperpq.training.features import normalized_features
from hyperpq.training.recipe import GraphSettings
from hyperpq.training.split import TrainingSplit

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

log = logging.getLogger(__name__)

# Most principal directions of the features on the graph, and the power of their variances that is
# divided out: a partial whitening, so that a few strong directions don't decide alone.
_MAX_DIRECTIONS, _WHITENING = 512, 0.125
# The distance to this neighbour is the local scale (Zelnik-Manor and Perona, 2004).
_SCALE_NEIGHBOUR = 7
# The support of a walk of half the steps is one image in so many: more mix what doesn't belong
# together. Less than 8 are no walk, and with more than 128 the matrix grows large.
_SUPPORT_ONE_OF, _MIN_SUPPORT, _MAX_SUPPORT = 24, 8, 128
# Rows that are searched, or multiplied, at a time.
_BATCH_ROWS = 1024
# Most images whose views decide the weight of an image, neighbours of each that are compared, and
# how fast the weight grows with what they say.
_MAX_WEIGHING, _WEIGHING_NEIGHBOURS, _WEIGHT_GROWTH = 2000, 10, 15.0
# Fewer images have no neighbours to speak of.
_MIN_GRAPH_IMAGES = 3


@dataclass(frozen=True)
class NeighbourGraph:
    """Neighbours and affinities of n features.

    Attributes
    ----------
    neighbours : ndarray, shape (n, k), int64
        Nearest others, nearest first.
    factor : csr_matrix, shape (n, n), float32
        Truncated walk factor. The affinity of i and j is the product of their rows:
        ``factor @ factor.T`` is the probability of a walk of ``steps`` steps from i to j, divided
        by the degree of j, which keeps hubs from being everybody's neighbour.
    """

    neighbours: NDArray[np.int64]
    factor: csr_matrix

    def walk(self, rows: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """End (b,) of a random walk from each row (b,), in which all neighbours are as probable."""
        ends, k = rows, self.neighbours.shape[1]
        for _ in range(steps):
            choice = torch.randint(k, ends.shape, generator=generator)
            ends = torch.from_numpy(self.neighbours[ends.numpy(), choice.numpy()])
        return ends

    def affinities(self, rows: Tensor) -> Tensor:
        """Affinities (b, b) between rows (b,), each row summing to 1; 0 to itself and its copies.

        A row without any affinity to the others is 0.
        """
        distinct, inverse = np.unique(rows.numpy(), return_inverse=True)
        factor = self.factor[distinct]
        affinity = (factor @ factor.T).toarray()
        np.fill_diagonal(affinity, 0)
        full = torch.from_numpy(affinity[np.ix_(inverse, inverse)])
        return full / full.sum(1, keepdim=True).clamp_min(1e-30)


def training_graph(
    codec: HiHPQCodec,
    x: NDArray[np.float32],
    views: NDArray[np.floating] | None,
    split: TrainingSplit,
    settings: GraphSettings,
) -> NeighbourGraph | None:
    """The graph of the rows that are learned from.

    Parameters
    ----------
    codec : HiHPQCodec
        Normalizes features.
    x : ndarray, shape (n, d), float32
        All training features.
    views : ndarray, shape (V, v, d), optional
        Features of the views of augmented images. An image with views is on the graph as the mean
        of itself and these; views that are made of features take no part.
    split : TrainingSplit
        Says which rows are learned from, and which have views.
    settings : GraphSettings
        From the recipe.

    Returns
    -------
    NeighbourGraph or None
        Row i is that of ``split.learning_rows[i]``. None if the recipe has no graph, or if there
        are too few images.
    """
    rows = split.learning_rows
    if not settings.graph_neighbours or len(rows) < _MIN_GRAPH_IMAGES:
        return None
    own = normalized_features(codec, x[rows])
    if views is None:
        z = graph_features(own)
    else:
        # Both are in the order of the views.
        columns = np.flatnonzero(np.isin(split.view_rows, rows))
        positions = np.searchsorted(rows, split.view_rows[columns])
        weight = settings.image_weight
        if not weight:
            some = evenly(columns, _MAX_WEIGHING)
            few = [normalized_features(codec, view[some]) for view in views]
            weight = image_weight(own[evenly(positions, _MAX_WEIGHING)], few)
            log.info("on the graph an image weighs %.1f times as much as a view.", weight)
        normalized = (normalized_features(codec, view[columns]) for view in views)
        z = graph_features(own, normalized, positions, weight)
    return build_graph(z, settings.graph_neighbours, settings.graph_steps, device=str(codec.device))


def graph_features(
    x: NDArray[np.float32],
    views: Iterable[NDArray[np.float32]] = (),
    view_rows: NDArray[np.int64] | None = None,
    weight: float = 1.0,
) -> NDArray[np.float32]:
    """The vectors whose distances make the graph.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Normalized features.
    views : iterable of V ndarrays, each (v, d)
        Normalized features of views, taken one by one. The mean of an image and its views has less
        of what a single crop happens to show.
    view_rows : ndarray, shape (v,), int64, optional
        Rows that they are views of; all unless given.
    weight : float
        Weight of the image itself beside each of its views, see `image_weight`.

    Returns
    -------
    ndarray, shape (n, r), float32
        Unit vectors, partly whitened.
    """
    mixed, rows = x.copy(), slice(None) if view_rows is None else view_rows
    total = weight * x[rows]
    for view in views:
        total += view
    mixed[rows] = _unit(total)
    centred = mixed - mixed.mean(0)
    second = (centred.T @ centred).astype(np.float64) / len(x)
    values, vectors = np.linalg.eigh(second)
    keep = min(_MAX_DIRECTIONS, x.shape[1], max(2, len(x) // 4))
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    scale = np.maximum(values, max(values[0], 1e-30) * 1e-6) ** -_WHITENING
    return _unit(centred @ (vectors * scale).astype(np.float32))


def image_weight(x: NDArray[np.float32], views: Sequence[NDArray[np.float32]]) -> float:
    """Weight of an image beside each of its views, in the mean that is on the graph.

    In that mean, what a single crop happens to show averages out; but augmentation can also pull
    views away from what the image shows. If an image says no more about its neighbours than a view
    does, two views share as many neighbours as the image and a view do; if it says more, two views
    share fewer. With these shares s(v, v') and s(x, v) the weight is
    1 + 15 V ((1 - s(v, v')) / (1 - s(x, v)) - 1), in which the fraction hardly depends on n.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Unit vectors of images; some thousand are enough.
    views : sequence of V ndarrays, each (n, d), float32
        Unit vectors of their views.

    Returns
    -------
    float
        At least 1.
    """
    if len(views) < 2 or len(x) < 2:
        return 1.0
    k = min(_WEIGHING_NEIGHBOURS, len(x) - 1)
    own, *others = (nearest_others(one, k)[0] for one in (x, *views))
    with_views = float(np.mean([_shared(own, other) for other in others]))
    among_views = float(np.mean([_shared(one, other) for one, other in combinations(others, 2)]))
    excess = (1 - among_views) / max(1 - with_views, 1e-6) - 1
    return 1 + _WEIGHT_GROWTH * len(views) * max(excess, 0.0)


def _shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mean share of the same entries in rows (n, k) of distinct ones."""
    return float((one[:, :, None] == other[:, None, :]).sum() / one.size)


def walk_support(n: int, one_of: int = _SUPPORT_ONE_OF) -> int:
    """Support of a walk of half the steps: at how many of n images, the most probable, it may end.

    ``one_of`` sets it to one image in so many, within fixed limits.
    """
    return min(_MAX_SUPPORT, max(_MIN_SUPPORT, n // one_of))


def build_graph(
    z: NDArray[np.float32], k: int, steps: int, *, support: int | None = None, device: str = "cpu"
) -> NeighbourGraph:
    """The graph of the k nearest neighbours of each feature, and the walk on it.

    Parameters
    ----------
    z : ndarray, shape (n, r), float32
        Unit vectors, n >= 2.
    k : int
        Neighbours; at most n - 1 and ``support`` are used.
    steps : int
        Steps of the walk, an even number.
    support : int, optional
        At how many images a walk of half the steps may end, from 4 steps on; `walk_support` unless
        given.
    device : str
        Where neighbours are searched, if it is a CUDA device and faiss can use it.

    Returns
    -------
    NeighbourGraph
    """
    from scipy.sparse import csr_matrix, diags

    n = len(z)
    support = walk_support(n) if support is None else support
    k = min(k, support, n - 1)
    neighbours, squared = nearest_others(z, k, device=device)
    scale = np.sqrt(squared[:, min(_SCALE_NEIGHBOUR, k) - 1]).clip(1e-6)
    weights = np.exp(-squared / (scale[:, None] * scale[neighbours])).clip(1e-6)
    starts = np.arange(0, n * k + 1, k)
    one_way = csr_matrix((weights.ravel(), neighbours.ravel(), starts), (n, n))
    both = (one_way + one_way.T).tocsr().astype(np.float32)
    degree = np.asarray(both.sum(1)).ravel()
    step = (diags(1 / degree) @ both).tocsr().astype(np.float32)
    walk = step
    for _ in range(max(1, steps // 2) - 1):
        walk = _truncated_step(walk, step, support)
    factor = (walk @ diags(degree**-0.5)).tocsr().astype(np.float32)
    return NeighbourGraph(neighbours, factor)


def nearest_others(
    z: NDArray[np.float32], k: int, *, device: str = "cpu"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest other rows of unit vectors (n, r) and their squared distances, both (n, k).

    Exact: up to a hundred thousand rows an inverted file takes no less time.
    """
    n = len(z)
    index = on_device(import_faiss().IndexFlatIP(z.shape[1]), device)
    index.add(z)
    neighbours = np.empty((n, k), np.int64)
    squared = np.empty((n, k), np.float32)
    for start in range(0, n, _BATCH_ROWS):
        rows = slice(start, start + _BATCH_ROWS)
        similarity, found = index.search(z[rows], k + 1)
        own = np.arange(start, start + len(found))[:, None]
        # A row that isn't found itself (copies of it are) gives up its last neighbour.
        others = found != own
        others[others.all(1), -1] = False
        neighbours[rows] = found[others].reshape(-1, k)
        squared[rows] = 2 - 2 * similarity[others].reshape(-1, k)
    return neighbours, squared.clip(0)


def _truncated_step(walk: csr_matrix, step: csr_matrix, support: int) -> csr_matrix:
    """One more step of walks, each row truncated to its most probable ends."""
    from scipy.sparse import csr_matrix, vstack

    batches = []
    for start in range(0, walk.shape[0], _BATCH_ROWS):
        batch = (walk[start : start + _BATCH_ROWS] @ step).tocsr()
        lengths = np.diff(batch.indptr)
        if lengths.max(initial=0) > support:
            # Rows side by side, filled up with zeros, to truncate them all at once.
            row = np.repeat(np.arange(len(lengths)), lengths)
            padded = np.zeros((len(lengths), lengths.max()), np.float32)
            padded[row, np.arange(batch.nnz) - batch.indptr[row]] = batch.data
            least = np.partition(padded, -support, axis=1)[:, -support]
            keep = batch.data >= least[row]
            starts = np.concatenate(
                [[0], np.cumsum(np.bincount(row[keep], minlength=len(lengths)))]
            )
            batch = csr_matrix((batch.data[keep], batch.indices[keep], starts), batch.shape)
        batches.append(batch)
    return vstack(batches).tocsr()


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.maximum(norms, 1e-12), np.float32)
