"""The search of one piece: a threshold from a sample, survivors of the bounds, exact distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import BLOCK_ROWS
from hyperpq.scan.cuda.bounds import Bounds
from hyperpq.scan.cuda.passes import Passes, block_distances

if TYPE_CHECKING:
    from torch import Tensor

    from hyperpq.scan.cuda.piece import Piece

Found = Callable[[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]], None]
"""Takes queries, distances and row numbers, each of shape (n,)."""

FEW_ROWS = 1 << 13
"""Pieces with fewer active rows get all distances; the bounds would save less than they cost."""
MAX_K = 1 << 17
"""With more results, and with more than an eighth of the rows, all distances are computed."""

# A sample of the active rows has this many times the geometric mean of k and their number, so that
# about an eighth of its size survives the bounds for each query.
_SAMPLE = 8
# Survivors of a query that there is room for at first, and pairs of all queries at most.
_CAPACITY, _PAIRS = 1 << 12, 1 << 26
# Attempts before all distances are computed: many rows are at the threshold.
_ATTEMPTS = 3
# Pairs of a query and a row whose distances are in memory at once.
_DENSE_PAIRS = 1 << 23


def search_piece(
    passes: Passes, piece: Piece, tables: Tensor, theta: Tensor, k: int | None, found: Found
) -> None:
    """Find the rows of a piece that may be among the results of some queries.

    Parameters
    ----------
    passes : Passes
        What runs on the device.
    piece : Piece
        The rows.
    tables : Tensor, shape (nq, M, K), float32
        Tables of the queries.
    theta : Tensor, shape (nq,), float32
        The largest distance that counts; +inf if all do, never -inf.
    k : int or None
        Number of results; None for all rows with a distance up to ``theta``.
    found : callable
        Is called with these rows, each of them once, among them those that are the k nearest of the
        piece or are as near as the last of these.
    """
    import torch

    nq = len(tables)
    every = torch.arange(nq, device=tables.device)
    if piece.n_active == 0:
        return
    whole = k is not None and (k > MAX_K or 8 * k > piece.n_active)
    if whole or piece.n_active <= FEW_ROWS:
        _compute_all(passes, piece, tables, theta, k, every, found)
        return
    capacity = _CAPACITY
    if k is not None:
        size = sample_size(k, piece.n_active)
        theta = torch.minimum(theta, _sampled(passes, piece, tables, k, size))
        capacity = max(capacity, _power_of_two(4 * max(k, k * piece.n_active // size)))
    for some in every.split(max(1, _PAIRS // capacity)):
        _compute_survivors(passes, piece, tables, theta, k, some, capacity, found)


def _compute_survivors(
    passes: Passes,
    piece: Piece,
    tables: Tensor,
    theta: Tensor,
    k: int | None,
    queries: Tensor,
    capacity: int,
    found: Found,
) -> None:
    """`search_piece` for some queries, by the distances of the rows that the bounds leave."""
    import torch

    for _ in range(_ATTEMPTS):
        some = tables[queries]
        rows, counts = passes.survivors(piece, Bounds.of(some, theta[queries]), capacity)
        most = int(counts.max())
        rows = rows[:, : min(most, capacity)]
        distances = passes.distances(piece, some, rows)
        if k is not None and rows.shape[1] >= k:
            theta[queries] = torch.minimum(theta[queries], _kth(distances, k))
        fits = counts <= capacity
        near = (distances <= theta[queries, None]) & (rows >= 0) & fits[:, None]
        _report(near, distances, rows, queries, found)
        if most <= capacity:
            return
        queries = queries[~fits]
        capacity = min(_power_of_two(most), _power_of_two(_PAIRS // len(queries)))
    _compute_all(passes, piece, tables, theta, k, queries, found)


def sample_size(k: int, n: int) -> int:
    """Rows whose k-th distance is the first threshold for n active rows."""
    return min(max(int(_SAMPLE * math.sqrt(k * n)), 8 * k, FEW_ROWS), n)


def _power_of_two(n: int) -> int:
    """The next power of two, so that few sizes are compiled and allocated."""
    return 1 << max(n - 1, 0).bit_length()


def _sampled(passes: Passes, piece: Piece, tables: Tensor, k: int, size: int) -> Tensor:
    """A distance (nq,) that at least k rows do not exceed; +inf if the sample has fewer rows."""
    import torch

    # Whole blocks, evenly spaced, about as many as have so many active rows.
    blocks = -(-piece.n // BLOCK_ROWS)
    wanted = min(blocks, -(-size * piece.n // (piece.n_active * BLOCK_ROWS)))
    first = torch.arange(wanted, device=tables.device) * blocks // wanted * BLOCK_ROWS
    rows = (first[:, None] + torch.arange(BLOCK_ROWS, device=tables.device)).flatten()
    rows = rows[rows < piece.n]
    rows = rows[piece.active(rows)].int()
    if len(rows) < k:
        return tables.new_full((len(tables),), math.inf)
    out: list[Tensor] = []
    step = max(1, _PAIRS // len(rows))
    for start in range(0, len(tables), step):
        some = tables[start : start + step]
        out.append(_kth(passes.distances(piece, some, rows.expand(len(some), -1)), k))
    return torch.cat(out)


def _kth(distances: Tensor, k: int) -> Tensor:
    """The k-th smallest (nq,) of distances (nq, w), w at least k."""
    # A GPU would sort them in a step of its own.
    return distances.topk(k, largest=False, sorted=False).values.amax(1)


def _compute_all(
    passes: Passes,
    piece: Piece,
    tables: Tensor,
    theta: Tensor,
    k: int | None,
    queries: Tensor,
    found: Found,
) -> None:
    """`search_piece` for some queries, by the distances of all rows that are searched."""
    import torch

    theta = theta[queries]
    for rows, distances in _all_distances(passes, piece, tables[queries]):
        if k is not None and len(rows) >= k:
            theta = torch.minimum(theta, _kth(distances, k))
        near = (distances <= theta[:, None]) & (distances < math.inf)
        _report(near, distances, rows.expand(distances.shape), queries, found)


def _all_distances(passes: Passes, piece: Piece, tables: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers (n,) of rows and their distances (nq, n), in blocks; +inf of rows left out."""
    import torch

    step = max(1, _DENSE_PAIRS // len(tables))
    if 8 * piece.n_active <= piece.n:
        for rows in piece.active_rows().split(step):
            yield rows, passes.distances(piece, tables, rows.int().expand(len(tables), -1))
        return
    for first, codes in piece.columns(step):
        rows = torch.arange(first, first + codes.shape[1], device=codes.device)
        yield rows, torch.where(piece.active(rows), block_distances(tables, codes), math.inf)


def _report(near: Tensor, distances: Tensor, rows: Tensor, queries: Tensor, found: Found) -> None:
    """Call ``found`` with the pairs (nq, w) that are marked in ``near``."""
    query, column = near.nonzero(as_tuple=True)
    found(
        queries[query].cpu().numpy(),
        distances[query, column].cpu().numpy(),
        rows[query, column].long().cpu().numpy(),
    )
