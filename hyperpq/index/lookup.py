"""What a store has of the rows with some ids, in the order of the ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import UnknownIdError
from hyperpq.index.path_map import PathMap
from hyperpq.store import Categories, Column, Store
from hyperpq.store.columns import concatenate

Ids = NDArray[np.int64]


def codes_at(store: Store, ids: Ids, code_size: int) -> NDArray[np.uint8]:
    """Codes (n, code_size) of the rows with some ids (n,).

    Raises
    ------
    UnknownIdError
        If there is no row with one of the ids; so do the other functions.
    """
    codes = np.empty((len(ids), code_size), np.uint8)
    missing = np.ones(len(ids), bool)
    for _, rows, segment in store.find(ids):
        here = rows >= 0
        codes[here] = segment.codes_at(rows[here])
        missing &= ~here
    refuse_missing(ids, missing)
    return codes


def features_at(store: Store, ids: Ids) -> list[tuple[NDArray[np.uint8], Ids, Ids]]:
    """Where the kept features of the rows with some ids lie, see `RowView.features_at`."""
    missing, found = np.ones(len(ids), bool), []
    for _, rows, segment in store.find(ids):
        features = segment.features
        assert features is not None
        here = np.flatnonzero(rows >= 0)
        missing[here] = False
        found.append((features, rows[here], here))
    refuse_missing(ids, missing)
    return found


def paths_at(store: Store, ids: Ids, path_map: PathMap) -> list[bytes]:
    """Paths of the rows with some ids, as they are shown; no other path is read."""
    found: dict[int, bytes] = {}
    missing = np.ones(len(ids), bool)
    for _, rows, segment in store.find(ids):
        for position in np.flatnonzero(rows >= 0).tolist():
            found[position] = path_map.shown(segment.path(int(rows[position])))
        missing &= rows < 0
    refuse_missing(ids, missing)
    return [found[position] for position in range(len(ids))]


def attributes_at(store: Store, ids: Ids, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Attributes of the rows with some ids, see `HiHPQIndex.attributes_of`."""
    order = np.full(len(ids), -1, np.int64)
    found: dict[str, list[Column]] = {name: [] for name in names}
    count = 0
    for _, rows, segment in store.find(ids):
        here = np.flatnonzero(rows >= 0)
        for name, columns in found.items():
            columns.append(segment.attribute_at(name, rows[here]))
        order[here] = np.arange(count, count + len(here))
        count += len(here)
    refuse_missing(ids, order < 0)
    return {name: _values(columns, order) for name, columns in found.items() if columns}


def refuse_missing(ids: Ids, missing: NDArray[np.bool_]) -> None:
    """Raise `UnknownIdError` that names the first id that is missing, if one is."""
    if missing.any():
        raise UnknownIdError(
            f"id is {ids[missing][0]}; the index has no vector with it; expected ids of the index."
        )


def _values(columns: list[Column], order: NDArray[np.int64]) -> NDArray[Any]:
    column = concatenate(columns)[order]
    if isinstance(column, Categories):
        return np.array([*column.strings(), None], object)[:-1]
    return np.asarray(column)
