"""`Refinement`: the best codes of a search are ranked again by the features that the index keeps.

`docs/method/refine.md` has the reasons and what was measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from hyperpq.codec.feature_products import Pairs
from hyperpq.codes import CodeSegment
from hyperpq.errors import InvalidInputError
from hyperpq.index.calibration import Sampled, first_rows, sample_ids
from hyperpq.utils.devices import default_threads
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.codec.feature_space import FeatureSpace
    from hyperpq.index.view import RowView
    from hyperpq.store import Segment

Refine = int | Literal["auto"] | None
"""How many of the best codes are ranked again: ``"auto"`` to measure it, None or 0 for none."""

LADDER = (50, 100, 200, 400)
"""Numbers of candidates that ``"auto"`` chooses from, see `candidates`."""
BY_CODES = 200
"""Candidates of ``"auto"`` that are ranked again by their codes, where no features are kept."""

# It is measured with every eighth row of a sample, which are 64, by the first results of each. With
# this share of them equal, quality is that of more candidates: `refine.md` has what was measured.
_SAMPLE_STEP, _FIRST, _SHARE = 8, 10, 0.95

# Pairs of a query and a candidate that are in memory at once.
_PAIRS = 1 << 15
_LARGEST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float64).min)


@dataclass(frozen=True, eq=False)
class Refinement:
    """Ranks the best codes of each query again, by the kept features of these rows alone.

    Without kept features, codes of the objective ``fidelity`` are ranked again by a term of the
    whole code, which is no sum of table entries, see `Codec.corrections`.

    The refined distance of a row is that of its code plus ``factor`` times the squared chord of its
    features to the query, see `FeatureSpace`. For plain codebooks and the objective ``fidelity`` it
    is the distance of the features alone, as in ``faiss.IndexRefineFlat``.

    Rows after the candidates keep the order of their codes. Their distance is that of their code
    plus the largest difference that refinement made to a candidate of the query. So the results for
    a k are the first of those for any larger one. Among the candidates, rows at the same distance
    are ordered by their ids. After them they are not: the sum can round distances of different
    codes to the same number.

    Attributes
    ----------
    rows : RowView
        The rows.
    codec : Coder
        Their codec.
    space : FeatureSpace or None
        How their features are compared; None if they keep none.
    factor : float or None
        Weight of the distance of features; None where it replaces the distance of the code.
    count : int
        Number of candidates.
    """

    rows: RowView
    codec: Coder
    space: FeatureSpace | None
    factor: float | None
    count: int

    @classmethod
    def of(cls, rows: RowView, codec: Coder, refine: Refine) -> Refinement | None:
        """What ``refine`` of a search asks for; None if that is nothing.

        Raises
        ------
        InvalidInputError
            If it is no number of candidates, or the rows keep no features and the codec has no
            corrections.
        """
        count = as_refine(refine)
        if count == 0:
            return None
        if rows.feature_codec is None:
            if codec.has_corrections:
                return cls(rows, codec, None, None, BY_CODES if count is None else count)
            raise InvalidInputError(
                f"refine is {refine!r}, but the index keeps no features to rank by; expected an "
                "index that does; make it with HiHPQIndex(d, features='int8') or hyperpq build, or "
                "leave refine out."
            )
        if count is None:
            count = candidates(rows, codec)
        return cls(rows, codec, codec.feature_space(), Sampled.of(rows, codec).factor, count)

    def width(self, width: int, segments: Sequence[CodeSegment]) -> int:
        """Number of results that a scan has to find, for so many results."""
        return max(width, min(self.count, sum(segment.codes.n for segment in segments)))

    def ranked(
        self,
        queries: NDArray[np.float32],
        D: NDArray[np.float32],
        I: NDArray[np.int64],  # noqa: E741
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rank the first results of queries (nq, d) again.

        Parameters
        ----------
        queries : ndarray, shape (nq, d), float32
            Queries.
        D, I : ndarray, shape (nq, width)
            All their results, or at least as many as there are candidates, by (D, I).
        threads : int, optional
            Number of threads, one for each core by default.

        Returns
        -------
        D, I : ndarray, shape (nq, width)
        """
        refined, order = D.copy(), I.copy()
        first = slice(0, min(self.count, D.shape[1]))
        step = max(1, _PAIRS // max(first.stop, 1))
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            ids, behind = I[some, first], D[some, first.stop :]
            is_row = ids >= 0
            near = np.where(is_row, D[some, first], 0)
            wide = self._distances(queries[some], near, ids, threads)
            shift = (wide - near).max(1, where=is_row, initial=_LEAST, keepdims=True)
            rounded = np.where(is_row, _as_float32(wide), np.inf)
            by_distance = _order(rounded, ids)
            refined[some, first] = np.take_along_axis(rounded, by_distance, 1)
            order[some, first] = np.take_along_axis(ids, by_distance, 1)
            if behind.shape[1]:
                # By as much as the shift was rounded, they could lie before the last candidate.
                moved = np.maximum(_as_float32(behind + shift), refined[some, first][:, -1:])
                refined[some, first.stop :] = np.where(np.isfinite(behind), moved, np.inf)
        return refined, order

    def distances(
        self, queries: NDArray[np.float32], D: NDArray[np.float32], ids: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Refined distances (nq, n) of rows with some ids, whose codes are at the distances D."""
        return _as_float32(self._distances(queries, D, ids, None))

    def to_self(
        self, queries: NDArray[np.float32], d_self: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Refined distance (nq,) of each query to itself, whose code is at the distance d_self."""
        if self.space is None:
            return d_self + self.codec.corrections(self.codec.encode(queries))
        if self.factor is not None:
            return d_self.astype(np.float64)
        return np.concatenate([self.space.distances(x, x[None]) for x in queries])

    def _distances(
        self,
        queries: NDArray[np.float32],
        D: NDArray[np.float32],
        ids: NDArray[np.int64],
        threads: int | None,
    ) -> NDArray[np.float64]:
        """Refined distances (nq, n) of rows at the distances D; arbitrary where the id is -1."""
        if self.space is None:
            known, which = np.unique(ids[ids >= 0], return_inverse=True)
            wide = D.astype(np.float64)
            wide[ids >= 0] += self.codec.corrections(self.rows.codes_of(known))[which]
            return wide
        asked = np.flatnonzero(ids.ravel() >= 0)
        # Rows are read in the order in which they are stored, one of several queries once.
        labels = ids.ravel()[asked]
        order = np.argsort(labels)
        asked, labels = asked[order], labels[order]
        which = asked // max(ids.shape[1], 1)
        out = np.zeros(ids.size)
        found = self.rows.features_at(labels)
        several = [Pairs(features, rows, which[at]) for features, rows, at in found]
        positions = np.concatenate([np.empty(0, np.int64), *(asked[at] for *_, at in found)])
        out[positions] = self.space.between(
            self.space.probes(queries),
            several,
            self.rows.kept_by(),
            default_threads() if threads is None else threads,
        )
        between = out.reshape(ids.shape)
        return between if self.factor is None else D + self.factor * between


def as_refine(refine: object) -> int | None:
    """Number of candidates that ``refine`` of a search stands for; 0 for none, None for ``"auto"``.

    Raises
    ------
    InvalidInputError
        If it stands for none.
    """
    if refine is None:
        return 0
    if isinstance(refine, str):
        if refine != "auto":
            raise InvalidInputError(
                f"refine is {refine!r}; expected 'auto', or how many of the best codes are ranked "
                "again, such as 200."
            )
        return None
    return as_count(refine, "refine", 0)


def candidates(rows: RowView, codec: Coder) -> int:
    """How many candidates change the first ten results of an index that keeps features.

    Rows of the index are queries. The number is the smallest of `LADDER` with which 95 % of the ten
    results that follow each of them are those with the largest number. The rows that are searched
    are those that the sample of a calibration is drawn from, see `calibration.first_rows`, so that
    the number seldom changes when rows are added. It depends on these rows alone.
    """
    first = first_rows(rows.ntotal)
    if first <= LADDER[0] + 1:
        return LADDER[0]
    searched, before = [], 0
    for segment in rows.segments:
        if before < first:
            searched.append(segment)
        before += segment.n_live
    known = _MEASURED.setdefault(codec, deque(maxlen=_MAX_KNOWN))
    for segments, number, count in list(known):
        # A segment never changes.
        if number == first and [one() for one in segments] == searched:
            return count
    count = _measured(rows, codec, first)
    known.append((list(map(ref, searched)), first, count))
    return count


def _measured(rows: RowView, codec: Coder, first: int) -> int:
    """`candidates` of the first rows."""
    ids = sample_ids(rows)[::_SAMPLE_STEP]
    queries = rows.features_of(ids)
    with np.errstate(over="ignore", invalid="ignore"):
        tables = codec.tables(queries)
    # Kept features may be too large for a query.
    finite = np.isfinite(tables).all((1, 2))
    if not finite.any():
        return LADDER[0]
    ids, queries, tables = ids[finite], queries[finite], tables[finite]
    largest = min(LADDER[-1], first - 1)
    searched = rows.first_code_segments(first)
    found = rows.scanner.search_segments(tables, searched, largest + 1)
    # A query is not one of its results, also where many rows have its code.
    others = found[1] != ids[:, None]
    others &= others.cumsum(1) <= largest
    D, I = (array[others].reshape(len(ids), largest) for array in found)  # noqa: E741
    factor = Sampled.of(rows, codec).factor
    near = Refinement(rows, codec, codec.feature_space(), factor, largest).distances(queries, D, I)
    final = _first_ids(near, I)
    for count in LADDER:
        kept = _first_ids(near[:, :count], I[:, :count])
        if (final[:, :, None] == kept[:, None]).any(2).mean() >= _SHARE:
            return count
    return LADDER[-1]


def _first_ids(D: NDArray[np.float32], I: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: E741
    """Ids (nq, 10) of the first results of each query, by (D, I)."""
    return np.take_along_axis(I, _order(D, I)[:, :_FIRST], 1)


# What was measured with a codec: segments, how many of their rows, and the number of candidates.
_Measured: TypeAlias = deque[tuple[list["ref[Segment]"], int, int]]
_MEASURED: WeakKeyDictionary[Coder, _Measured] = WeakKeyDictionary()
_MAX_KNOWN = 8


def _order(D: NDArray[np.float32], I: NDArray[np.int64]) -> NDArray[np.intp]:  # noqa: E741
    """The order (nq, n) of results by (D, I), for each query."""
    order = np.argsort(D, 1)
    ascending = np.take_along_axis(D, order, 1)
    # Few queries have equal distances, and sorting by both takes eight times as long.
    tied = (ascending[:, 1:] == ascending[:, :-1]).any(1)
    order[tied] = np.lexsort((I[tied], D[tied]))
    return order


def _as_float32(D: NDArray[np.float64]) -> NDArray[np.float32]:
    """Distances rounded as the scan does it: those of rows are finite."""
    return D.clip(-_LARGEST, _LARGEST).astype(np.float32)
