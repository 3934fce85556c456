"""Which rows of some segments are meant, by ids and conditions or by their positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyperpq.codes import CodeSegment
from hyperpq.filters.hints import UnknownValue, unknown_column, unknown_values
from hyperpq.filters.selectors import SearchParameters
from hyperpq.filters.where import Where
from hyperpq.index.path_map import PathMap
from hyperpq.store import Categories, Column, Segment
from hyperpq.store.paths import Paths
from hyperpq.store.segments import live_at

Segments = Sequence[Segment]


def selected(segment: Segment, params: SearchParameters, path_map: PathMap) -> NDArray[np.bool_]:
    """Mask (n,) of the rows of a segment that are not deleted and that ``params`` selects.

    Conditions on ``path`` are on the paths as they are shown.
    """

    def column(name: str) -> Column | Paths:
        if name == "id":
            return segment.ids
        if name == "path" and segment.path_strings is not None:
            shown = path_map.shown_strings(segment.path_strings)
            return Paths(shown.offsets, shown.blob)
        if name not in segment.schema:
            assert params.where is not None  # nothing else asks for a column
            raise unknown_column(name, {"id", *segment.schema}, params.where.root)
        return segment.attribute(name)

    mask = np.ones(segment.n, bool)
    mask[segment.deleted_rows] = False
    if params.sel is not None:
        mask &= params.sel.mask(segment.ids)
    if params.where is not None:
        mask &= params.where.mask(column, segment.n)
    return mask


def selected_ids(
    segments: Segments, params: SearchParameters, path_map: PathMap
) -> NDArray[np.int64]:
    """Ids (n,) int64 of the rows that ``params`` selects, ascending."""
    ids = [segment.ids[selected(segment, params, path_map)] for segment in segments]
    return np.sort(np.concatenate([np.empty(0, np.int64), *ids]))


def selected_codes(
    segments: Segments, params: SearchParameters, path_map: PathMap
) -> list[CodeSegment]:
    """The rows that ``params`` selects, as the scan reads them; no segment without such a row."""
    out = []
    for segment in segments:
        # Only the bits of each segment are kept, an eighth of its mask.
        mask = selected(segment, params, path_map)
        if mask.any():
            out.append(segment.scanned(mask))
    return out


def first_codes(segments: Segments, n: int) -> list[CodeSegment]:
    """The first n rows, in the order in which they are stored, as the scan reads them."""
    out = []
    for segment in segments:
        if segment.n_live <= n:
            out.append(segment.scanned())
        elif n > 0:
            mask = np.zeros(segment.n, bool)
            mask[live_at(segment, np.arange(n))] = True
            out.append(segment.scanned(mask))
        n -= segment.n_live
        if n <= 0:
            break
    return out


def ids_at(segments: Segments, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids of the rows at some positions, ascending, in the order in which they are stored."""
    ids, start = [np.empty(0, np.int64)], 0
    for segment in segments:
        stop = start + segment.n_live
        here = positions[(positions >= start) & (positions < stop)] - start
        ids.append(segment.ids[live_at(segment, here)])
        start = stop
    return np.concatenate(ids)


def values_of_no_row(segments: Segments, condition: Where) -> list[UnknownValue]:
    """Texts that a condition compares with categories and that no row has, deleted or not."""

    def labels(name: str) -> set[str] | None:
        columns = [s.attribute(name) for s in segments if name in s.attribute_names]
        known = [set(c.labels) for c in columns if isinstance(c, Categories)]
        return set().union(*known) if known else None

    return unknown_values(condition.root, labels)
