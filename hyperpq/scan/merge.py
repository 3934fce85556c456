"""Answers of several indexes to the same queries, merged into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperpq.errors import InvalidInputError
from hyperpq.utils.validation import as_array, as_count


def merge_results(
    results: Sequence[tuple[ArrayLike, ArrayLike]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Merge what several indexes found for the same queries into the k nearest of all.

    If the rows of one collection are divided among indexes with the same codec, the result is the
    one that a single index of all rows returns, bit for bit. That holds for ranking by codes. With
    ``refine`` each index has candidates of its own, and may have another number and weight of
    them, so refined distances of several indexes are not comparable in general.

    Parameters
    ----------
    results : sequence of (D, I)
        The results of `HiHPQIndex.search` on each index, for the same queries in the same order.
        ``D`` and ``I`` have shape (nq, k'), k' at least k; each result can have another k'. Rows
        without an id (-1) are padding.
    k : int
        Number of results for each query.

    Returns
    -------
    D : ndarray, shape (nq, k), float32
        Distances, ascending, padded with +inf.
    I : ndarray, shape (nq, k), int64
        Ids, ties by the lower one, padded with -1.

    Raises
    ------
    InvalidInputError
        If there are no results, their shapes or dtypes do not fit, a distance is NaN, or an id is
        in the results of a query twice.

    Examples
    --------
    >>> first = np.array([[0.5, 2.0]], np.float32), np.array([[7, 4]])
    >>> second = np.array([[0.5, np.inf]], np.float32), np.array([[3, -1]])
    >>> D, I = merge_results([first, second], 2)
    >>> D
    array([[0.5, 0.5]], dtype=float32)
    >>> I
    array([[3, 7]])
    """
    k = as_count(k, "k")
    pairs: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
    for number, (distances, labels) in enumerate(_at_least_one(results)):
        D, I = _pair(distances, labels, f"results[{number}]", 2)  # noqa: E741
        if len(D) != len(pairs[0][0] if pairs else D):
            raise InvalidInputError(
                f"results[{number}] has {len(D)} queries and results[0] has {len(pairs[0][0])}; "
                "expected results of the same queries."
            )
        if D.shape[1] < k:
            raise InvalidInputError(
                f"results[{number}] has {D.shape[1]} results for each query; expected at least "
                f"k = {k}, as each index may hold all of the k nearest; search it with k = {k}."
            )
        pairs.append((D, I))
    D = np.concatenate([D for D, _ in pairs], axis=1)
    I = np.concatenate([I for _, I in pairs], axis=1)  # noqa: E741
    missing = I < 0
    D[missing] = np.inf
    order = np.lexsort((I, missing, D), axis=1)[:, :k]
    query = np.broadcast_to(np.arange(len(I))[:, None], I.shape)
    _refuse_repeated(query[~missing], I[~missing])
    I[missing] = -1
    return np.take_along_axis(D, order, 1), np.take_along_axis(I, order, 1)


def merge_range_results(
    results: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Merge what several indexes found within a radius of the same queries.

    Parameters
    ----------
    results : sequence of (lims, D, I)
        The results of `HiHPQIndex.range_search` on each index, for the same queries in the same
        order and with the same radius.

    Returns
    -------
    lims : ndarray, shape (nq + 1,), int64
        The results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
    D : ndarray, shape (lims[-1],), float32
        Distances, ascending for each query.
    I : ndarray, shape (lims[-1],), int64
        Ids, ties by the lower one.

    Raises
    ------
    InvalidInputError
        As `merge_results`.
    """
    lims, D, I, query = [], [], [], []  # noqa: E741
    for number, (limits, distances, labels) in enumerate(_at_least_one(results)):
        name = f"results[{number}]"
        pair = _pair(distances, labels, name, 1)
        lims.append(_lims(limits, len(pair[0]), name))
        if len(lims[-1]) != len(lims[0]):
            raise InvalidInputError(
                f"{name} has {len(lims[-1]) - 1} queries and results[0] has {len(lims[0]) - 1}; "
                "expected results of the same queries."
            )
        D.append(pair[0])
        I.append(pair[1])
        query.append(np.repeat(np.arange(len(lims[-1]) - 1), np.diff(lims[-1])))
    distances, ids, queries = np.concatenate(D), np.concatenate(I), np.concatenate(query)
    _refuse_repeated(queries, ids)
    order = np.lexsort((ids, distances, queries))
    return np.sum(lims, axis=0), distances[order], ids[order]


def _at_least_one(results: Sequence[tuple[ArrayLike, ...]]) -> Sequence[tuple[ArrayLike, ...]]:
    if not len(results):
        raise InvalidInputError("results is empty; expected the results of one index or more.")
    return results


def _pair(
    distances: ArrayLike, labels: ArrayLike, name: str, ndim: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Distances and ids of one result, checked."""
    D, I = as_array(distances, f"D of {name}"), as_array(labels, f"I of {name}")  # noqa: E741
    if D.ndim != ndim or D.shape != I.shape:
        shape = "(nq, k)" if ndim == 2 else "(n,)"
        raise InvalidInputError(
            f"{name} has D of shape {D.shape} and I of shape {I.shape}; expected {shape} for both."
        )
    if D.dtype != np.float32 or I.dtype != np.int64:
        raise InvalidInputError(
            f"{name} has D of dtype {D.dtype} and I of dtype {I.dtype}; expected float32 and int64."
        )
    if np.isnan(D).any():
        raise InvalidInputError(f"D of {name} has NaN; expected distances.")
    return D, I


def _lims(limits: ArrayLike, n: int, name: str) -> NDArray[np.int64]:
    lims = as_array(limits, f"lims of {name}")
    fits = lims.ndim == 1 and lims.dtype.kind in "iu" and len(lims)
    if not fits or lims[0] != 0 or lims[-1] != n or (lims[1:] < lims[:-1]).any():
        raise InvalidInputError(
            f"lims of {name} are {lims.dtype} {lims.shape}; expected integers (nq + 1,) that "
            f"ascend from 0 to {n}, the number of its results."
        )
    return lims.astype(np.int64)


def _refuse_repeated(query: NDArray[np.int64], ids: NDArray[np.int64]) -> None:
    """Raise if a query has an id twice; both arguments have shape (n,)."""
    order = np.lexsort((ids, query))
    query, ids = query[order], ids[order]
    again = np.flatnonzero((query[1:] == query[:-1]) & (ids[1:] == ids[:-1]))
    if len(again):
        raise InvalidInputError(
            f"results have the id {ids[again[0]]} twice for query {query[again[0]]}; expected "
            "indexes that share no id; give the rows of each index ids of their own."
        )
