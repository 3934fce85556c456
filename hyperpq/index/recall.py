"""`RecallCurve`: how much of the exhaustive answer searches of some cells find, as measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

import numpy as np

from hyperpq.codec.config import PQConfig
from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.index.calibration import sample_ids
from hyperpq.index.cells import Cells
from hyperpq.index.recall_queries import decoded_queries, mixed_queries
from hyperpq.index.row_sketch import RowSketch
from hyperpq.store.grouping import MAX_CELLS
from hyperpq.utils.validation import as_number

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.index.view import RowView
    from hyperpq.store import Segment

# Every second row of a sample is a query, which are 256: in the mean of so many, a recall of 95 %
# has a standard error of about 0.7 %.
_SAMPLE_STEP, _FIRST = 2, 10
# A smaller index is searched as a whole: its results are in all of its cells.
_MIN_ROWS = 100
# Numbers of cells that are measured, for each doubling.
_STEPS = 4
# An index that has grown by this factor since is measured again, and so is one that has lost or
# replaced so many of the rows of then that fewer than the inverse share is left.
_GROWTH = 1.5
_FIELDS = {"vectors", "nprobe", "recall", "sample"}


@dataclass(frozen=True)
class RecallCurve:
    """The recall of the first ten results of the exhaustive search, for numbers of cells.

    Rows of the index are queries, always the same ones for the same rows, and none of them is among
    its own results. A query is the features of a row where they are kept. Otherwise it is made of
    the code of the row, see `hyperpq.index.recall_queries`.

    Attributes
    ----------
    n : int
        Number of rows of the index when it was measured.
    nprobe : tuple of int
        Numbers of cells, ascending, below ``nlist``.
    recall : tuple of float
        The share of the results that are in so many cells.
    rows : RowSketch
        Some of the rows of then.
    """

    n: int
    nprobe: tuple[int, ...]
    recall: tuple[float, ...]
    rows: RowSketch = field(default_factory=RowSketch)

    @classmethod
    def of(cls, rows: RowView, coder: Coder, cells: Cells) -> RecallCurve:
        """The curve of an index: the stored one if it still holds, or a measured one."""
        known = _KNOWN.get(cells, ())
        for one in known:
            if one.has_seen(rows.segments):
                return one.curve
        for curve in (*(one.curve for one in known), rows.recall_curve):
            if curve is not None and curve.holds_for(rows):
                return curve._remembered(rows, cells)
        return cls.measured(rows, coder, cells)

    def _remembered(self, rows: RowView, cells: Cells) -> RecallCurve:
        """Itself, which the process knows from then on."""
        new = _Known(self, tuple(map(ref, rows.segments)))
        others = [one for one in _KNOWN.get(cells, ()) if one.curve is not self]
        _KNOWN[cells] = (new, *others[: _MOST_KNOWN - 1])
        return self

    def holds_for(self, rows: RowView) -> bool:
        """Whether most rows of an index, with the same cells, are those that were measured."""
        return rows.ntotal < self.n * _GROWTH and self.rows.share(rows) > 1 / _GROWTH

    @classmethod
    def measured(cls, rows: RowView, coder: Coder, cells: Cells) -> RecallCurve:
        """Measure it by one exhaustive search; the rows need not be grouped by these cells yet.

        It finds in which cells the exact results are, and a search of cells finds just those of
        them that are in its cells.
        """
        curve = replace(cls._measured(rows, coder, cells), rows=RowSketch.of(rows))
        return curve._remembered(rows, cells)

    @classmethod
    def _measured(cls, rows: RowView, coder: Coder, cells: Cells) -> RecallCurve:
        k = _FIRST
        if rows.ntotal < _MIN_ROWS:
            return cls(rows.ntotal, (), ())
        ids = sample_ids(rows)[::_SAMPLE_STEP]
        if rows.feature_codec is None:
            held = rows.held
            assert held is not None  # its cells are measured
            is_plain = isinstance(held.config, PQConfig) and coder.metric == "l2"
            queries = mixed_queries if is_plain else decoded_queries
            v, tables = queries(rows.codes_of(ids), coder)
        else:
            x = rows.features_of(ids)
            with np.errstate(over="ignore", invalid="ignore"):
                tables = coder.tables(x)
            # Kept features may be too large for a query.
            finite = np.isfinite(tables).all((1, 2))
            ids, tables, v = ids[finite], tables[finite], coder.embed(x[finite])
            if not len(ids):
                return cls(rows.ntotal, (), ())
        found = rows.scanner.search_segments(tables, rows.code_segments(), k + 1)[1]
        # A query is not one of its results, also where many rows have its code.
        others = found != ids[:, None]
        others &= others.cumsum(1) <= k
        labels, which = np.unique(found[others], return_inverse=True)
        numbers = cells.numbers_of(rows.codes_of(labels), coder).numbers
        ranks = cells.ranks(v, numbers[which].reshape(len(ids), k).astype(np.int64), coder)
        nprobe = _ladder(cells.nlist)
        # Rounded down, so that a recall of 1 is one.
        recall = [int((ranks < n).mean() * 1e4) / 1e4 for n in nprobe]
        return cls(rows.ntotal, nprobe, tuple(recall))

    def nprobe_of(self, recall: float) -> int | None:
        """The smallest number of cells with a recall; None for all of them, as for 1."""
        if recall == 1:
            return None
        pairs = zip(self.nprobe, self.recall, strict=True)
        return next((n for n, reached in pairs if reached >= recall), None)

    def to_json(self) -> dict[str, Any]:
        """The curve as JSON types."""
        return {
            "vectors": self.n,
            "nprobe": list(self.nprobe),
            "recall": list(self.recall),
            "sample": self.rows.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any, place: object) -> RecallCurve:
        """Read what `to_json` made.

        Raises
        ------
        CorruptIndexError
            If it is something else; the message begins with ``place``.
        """
        try:
            if value.keys() != _FIELDS:
                raise ValueError
            n, nprobe, recall = value["vectors"], value["nprobe"], value["recall"]
            is_right = (
                type(n) is int
                and 0 <= n < 1 << 63
                and all(type(count) is int and 1 <= count < MAX_CELLS for count in nprobe)
                and all(a < b for a, b in pairwise(nprobe))
                and all(type(share) in (int, float) and 0 <= share <= 1 for share in recall)
                and len(nprobe) == len(recall)
            )
            if not is_right:
                raise ValueError
            sketch = RowSketch.from_json(value["sample"])
            return cls(n, tuple(nprobe), tuple(map(float, recall)), sketch)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise CorruptIndexError(
                f"{place}: recall in manifest.json is not what was measured of cells; expected "
                f"{', '.join(sorted(_FIELDS))}."
            ) from None

    @staticmethod
    def settings(settings: Mapping[str, Any], curve: RecallCurve | None) -> dict[str, Any]:
        """Settings of a manifest with this curve, or without one."""
        kept = {name: value for name, value in settings.items() if name != "recall"}
        return kept if curve is None else kept | {"recall": curve.to_json()}


def check_one(nprobe: object, recall: object) -> None:
    """Raise `InvalidInputError` if a search is given both a number of cells and a recall."""
    if nprobe is not None and recall is not None:
        raise InvalidInputError(
            f"nprobe is {nprobe!r} and recall is {recall!r}; expected at most one of them; leave "
            "nprobe out, and recall decides it."
        )


def as_recall(recall: object) -> float | None:
    """The recall that a search asks for, if any.

    Raises
    ------
    InvalidInputError
        If it is not above 0 and at most 1.
    """
    if recall is None:
        return None
    target = as_number(recall, "recall")
    if not 0 < target <= 1:
        raise InvalidInputError(
            f"recall is {recall!r}; expected a share of the exact results above 0 and at most 1, "
            "such as 0.95."
        )
    return target


def _ladder(nlist: int) -> tuple[int, ...]:
    """The numbers of cells that are measured, all below ``nlist``."""
    steps = np.arange(_STEPS * int(nlist).bit_length() + 1)
    counts = np.unique(np.rint(2 ** (steps / _STEPS)).astype(np.int64))
    return tuple(counts[counts < nlist].tolist())


@dataclass(frozen=True)
class _Known:
    """A curve, and the segments that it is known to hold for, which never change."""

    curve: RecallCurve
    segments: tuple[ref[Segment], ...]

    def has_seen(self, segments: Sequence[Segment]) -> bool:
        return len(segments) == len(self.segments) and all(
            known() is segment for known, segment in zip(self.segments, segments, strict=True)
        )


# What was measured or read in this process, by the cells, the latest first. New cells of an index
# are another object; copies of an index and its views share one.
_KNOWN: WeakKeyDictionary[Cells, tuple[_Known, ...]] = WeakKeyDictionary()
_MOST_KNOWN = 4
