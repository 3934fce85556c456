"""The neighbour graph of the training features, and the diffusion on it that training imitates.

Neighbours of neighbours say more about what belongs together than distances do: a walk of several
steps on the graph stays inside dense regions. The probability that two walks meet is the affinity
that the contrastive loss learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperpq.quantizers.kmeans import import_faiss

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Principal directions of the graph's features, and the power of their variances that is divided
# out: part of a whitening, so that a few strong directions don't decide alone.
_DIRECTIONS, _WHITENING = 512, 0.125
# The distance to this neighbour is the local scale (Zelnik-Manor and Perona, 2004).
_SCALE_NEIGHBOUR = 7
# A walk of half the steps may end at a 24th of the images: further ones mix what doesn't belong
# together. At fewer than 8 it is no walk, with more than 128 the matrix grows large.
_ONE_OF, _FEWEST, _MOST = 24, 8, 128
_ROWS = 1024
# Neighbours that `image_weight` compares, and how fast the weight grows.
_COMPARED, _GROWTH = 10, 15.0


@dataclass(frozen=True)
class NeighbourGraph:
    """Neighbours and affinities of n features.

    Attributes
    ----------
    neighbours : ndarray, shape (n, k), int64
        Nearest others, nearest first.
    half : csr_matrix, shape (n, n), float32
        The affinity of i and j is the product of their rows: ``half @ half.T`` is the probability
        of a walk of ``steps`` steps from i to j, divided by the degree of j (which keeps hubs from
        being everybody's neighbour).
    """

    neighbours: NDArray[np.int64]
    half: csr_matrix

    def walk(self, rows: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """End of a random walk of ``steps`` steps from each row, all neighbours alike."""
        at, k = rows, self.neighbours.shape[1]
        for _ in range(steps):
            turn = torch.randint(k, at.shape, generator=generator)
            at = torch.from_numpy(self.neighbours[at.numpy(), turn.numpy()])
        return at

    def affinities(self, rows: Tensor) -> Tensor:
        """Affinities (b, b) between rows (b,), each row summing to 1; 0 to itself and its copies.

        A row without any affinity to the others is 0.
        """
        own, inverse = np.unique(rows.numpy(), return_inverse=True)
        part = self.half[own]
        small = (part @ part.T).toarray()
        np.fill_diagonal(small, 0)
        full = torch.from_numpy(small[np.ix_(inverse, inverse)])
        return full / full.sum(1, keepdim=True).clamp_min(1e-30)


def graph_features(
    x: NDArray[np.float32],
    views: Iterable[NDArray[np.float32]] = (),
    view_rows: NDArray[np.int64] | None = None,
    weight: float = 1.0,
) -> NDArray[np.float32]:
    """What distances on the graph are measured between.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Conditioned features.
    views : iterable of V ndarrays, each (v, d)
        Conditioned features of views, taken one by one. Their mean has less of
        what a crop happens to show.
    view_rows : ndarray, shape (v,), int64, optional
        Rows that they are views of; all unless given.
    weight : float
        Of the image itself beside each of its views, see `image_weight`.

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
    keep = min(_DIRECTIONS, x.shape[1], max(2, len(x) // 4))
    values, vectors = values[::-1][:keep], vectors[:, ::-1][:, :keep]
    scale = np.maximum(values, max(values[0], 1e-30) * 1e-6) ** -_WHITENING
    return _unit(centred @ (vectors * scale).astype(np.float32))


def image_weight(x: NDArray[np.float32], views: Sequence[NDArray[np.float32]]) -> float:
    """How much more than each of its views an image says about its neighbours.

    In the mean of an image and its views, what a crop happens to show averages out; but making
    views can also harm them. If an image is worth no more than a view, two views of it share as
    many neighbours as the image and a view do; if it is worth more, fewer. With these shares
    s(v, v') and s(p, v) the weight is 1 + 15 V ((1 - s(v, v')) / (1 - s(p, v)) - 1), in which the
    fraction hardly depends on n.

    Parameters
    ----------
    x : ndarray, shape (n, d), float32
        Unit vectors of images; some thousand say enough.
    views : sequence of V ndarrays, each (n, d), float32
        Unit vectors of their views.

    Returns
    -------
    float
        At least 1.
    """
    if len(views) < 2 or len(x) < 2:
        return 1.0
    k = min(_COMPARED, len(x) - 1)
    own, *others = (nearest_others(one, k)[0] for one in (x, *views))
    to_views = float(np.mean([_shared(own, other) for other in others]))
    inside = float(np.mean([_shared(one, other) for one, other in combinations(others, 2)]))
    excess = (1 - inside) / max(1 - to_views, 1e-6) - 1
    return 1 + _GROWTH * len(views) * max(excess, 0.0)


def _shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mean share of the same entries in rows (n, k) of distinct ones."""
    return float((one[:, :, None] == other[:, None, :]).sum() / one.size)


def reach(n: int, one_of: int = _ONE_OF) -> int:
    """How many of n images, the most probable ones, a walk of half the steps may end at."""
    return min(_MOST, max(_FEWEST, n // one_of))


def build_graph(
    z: NDArray[np.float32], k: int, steps: int, *, places: int | None = None, device: str = "cpu"
) -> NeighbourGraph:
    """The graph of the k nearest neighbours of each feature, and the diffusion on it.

    Parameters
    ----------
    z : ndarray, shape (n, r), float32
        Unit vectors, n >= 2.
    k : int
        Neighbours; at most n - 1 and ``places`` are used.
    steps : int
        Even; steps of the walk.
    places : int, optional
        At how many a walk of half the steps may end, from 4 steps on; `reach` unless given.
    device : str
        Where neighbours are searched, if it is a CUDA device and faiss can use it.
    """
    from scipy.sparse import csr_matrix, diags

    n = len(z)
    places = reach(n) if places is None else places
    k = min(k, places, n - 1)
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
        walk = _step_and_cut(walk, step, places)
    half = (walk @ diags(degree**-0.5)).tocsr().astype(np.float32)
    return NeighbourGraph(neighbours, half)


def nearest_others(
    z: NDArray[np.float32], k: int, *, device: str = "cpu"
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest other rows of unit vectors (n, r) and their squared distances, both (n, k).

    Exact: up to a hundred thousand rows an inverted file takes no less time.
    """
    faiss = import_faiss()
    n = len(z)
    index = faiss.IndexFlatIP(z.shape[1])
    if device.startswith("cuda") and hasattr(faiss, "StandardGpuResources"):
        number = int(device.partition(":")[2] or 0)
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), number, index)
    index.add(z)
    neighbours = np.empty((n, k), np.int64)
    squared = np.empty((n, k), np.float32)
    for start in range(0, n, _ROWS):
        rows = slice(start, start + _ROWS)
        similarity, found = index.search(z[rows], k + 1)
        own = np.arange(start, start + len(found))[:, None]
        # A row whose own place isn't found (copies of it are) gives up its last neighbour.
        others = found != own
        others[others.all(1), -1] = False
        neighbours[rows] = found[others].reshape(-1, k)
        squared[rows] = 2 - 2 * similarity[others].reshape(-1, k)
    return neighbours, squared.clip(0)


def _step_and_cut(walk: csr_matrix, step: csr_matrix, places: int) -> csr_matrix:
    """One more step, and the most probable places of each row."""
    from scipy.sparse import csr_matrix, vstack

    blocks = []
    for start in range(0, walk.shape[0], _ROWS):
        block = (walk[start : start + _ROWS] @ step).tocsr()
        lengths = np.diff(block.indptr)
        if lengths.max(initial=0) > places:
            # Rows side by side, filled up with zeros, to cut them all at once.
            row = np.repeat(np.arange(len(lengths)), lengths)
            padded = np.zeros((len(lengths), lengths.max()), np.float32)
            padded[row, np.arange(block.nnz) - block.indptr[row]] = block.data
            least = np.partition(padded, -places, axis=1)[:, -places]
            keep = block.data >= least[row]
            starts = np.concatenate(
                [[0], np.cumsum(np.bincount(row[keep], minlength=len(lengths)))]
            )
            block = csr_matrix((block.data[keep], block.indices[keep], starts), block.shape)
        blocks.append(block)
    return vstack(blocks).tocsr()


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return np.ascontiguousarray(x / np.maximum(norms, 1e-12), np.float32)
