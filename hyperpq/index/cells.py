"""`Cells`: the rows of an index by their nearest centroids, of which a search looks at some."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hyperpq.errors import CorruptIndexError, InvalidInputError
from hyperpq.quantizers.kmeans import kmeans
from hyperpq.store.grouping import MAX_CELLS, CellNumbers
from hyperpq.store.segments import joined, live_at
from hyperpq.utils.forks import cached
from hyperpq.utils.nearest_rows import NearestRows
from hyperpq.utils.validation import as_count

if TYPE_CHECKING:
    from hyperpq.codec.coder import Coder
    from hyperpq.index.index_codec import IndexCodec
    from hyperpq.store import Rows, Segment

# Codes that are decoded at once.
_BATCH = 1 << 14
# Rows of a cell that "auto" aims at, the largest number of cells that it makes, and the rows that
# k-means sees for each cell: more change the share of rows that has to be scanned by less than 2 %.
_ROWS_OF_A_CELL, _MAX_AUTO, _SAMPLED = 1000, 1 << 16, 64
_SEED = 0


@dataclass(frozen=True, eq=False)
class Cells:
    """Centroids in the space of decoded codes.

    A row is in the cell of the centroid that is nearest to what its code decodes to, by the
    Euclidean distance, the first of equal ones. So the cell of a row follows from its code.

    Attributes
    ----------
    centroids : ndarray, shape (nlist, D), float32
        Vectors as `Codec.decode` returns them.
    """

    centroids: NDArray[np.float32]

    @classmethod
    def learn(cls, codes: NDArray[np.uint8], coder: Coder, nlist: int) -> Cells:
        """Cells of codes (n, code_size) by k-means; the same codes give the same cells.

        Raises
        ------
        InvalidInputError
            There are fewer codes than cells.
        MissingDependencyError
            If faiss is not installed.
        """
        cls.check(nlist, len(codes))
        centroids, _ = kmeans(coder.decode(codes), nlist, seed=_SEED, iterations=15)
        return cls(centroids)

    @staticmethod
    def check(nlist: int, n: int) -> None:
        """Raise `InvalidInputError` unless n vectors are enough for so many cells."""
        if n < nlist:
            raise InvalidInputError(
                f"nlist is {nlist} for {n} vectors; expected at most one cell for each vector, and "
                "better for each thousand."
            )

    @property
    def nlist(self) -> int:
        """Number of cells."""
        return len(self.centroids)

    def numbers_of(self, codes: NDArray[np.uint8], coder: Coder) -> CellNumbers:
        """The cells of codes (n, code_size); that of a code does not depend on the others."""
        out = np.empty(len(codes), np.int32)
        for start in range(0, len(codes), _BATCH):
            v = coder.decode(codes[start : start + _BATCH])
            out[start : start + _BATCH] = self._by_distance.nearest(v, 1)[:, 0]
        return CellNumbers(out, self.nlist)

    def nearest(self, x: NDArray[np.float32], coder: Coder, nprobe: int) -> NDArray[np.int64]:
        """The cells that are nearest to queries.

        By the Euclidean distance, or with the metric ``ip`` those whose centroids have the largest
        inner products; of cells that are as near, those with the lower numbers. The result for a
        query does not depend on the other queries, nor on the processor.

        Parameters
        ----------
        x : ndarray, shape (nq, d), float32
            Queries.
        coder : Coder
            The codec.
        nprobe : int
            How many, at most ``nlist``.

        Returns
        -------
        ndarray, shape (nq, nprobe), int64
            The number of the nearest cell, then the others, ascending.
        """
        return self._nearest(coder).nearest(coder.embed(x), nprobe)

    def ranks(
        self, v: NDArray[np.float32], numbers: NDArray[np.int64], coder: Coder
    ) -> NDArray[np.int64]:
        """How many cells are nearer to queries than some cells are, in the order of `nearest`.

        Parameters
        ----------
        v : ndarray, shape (nq, D), float32
            Queries in the space of the centroids.
        numbers : ndarray, shape (nq, n), int64
            Numbers of cells.
        coder : Coder
            The codec.

        Returns
        -------
        ndarray, shape (nq, n), int64
            A cell is among the nearest ``nprobe`` if its value is below that.
        """
        out = np.empty(numbers.shape, np.int64)
        rows = self._nearest(coder)
        for some in rows.batches(len(v)):
            order = np.argsort(rows.far(v[some]), 1, kind="stable")
            places = np.empty_like(order)
            np.put_along_axis(places, order, np.arange(self.nlist)[None], 1)
            out[some] = np.take_along_axis(places, numbers[some], 1)
        return out

    def _nearest(self, coder: Coder) -> NearestRows:
        return self._by_product if coder.metric == "ip" else self._by_distance

    @cached
    def _by_distance(self) -> NearestRows:
        return NearestRows(self.centroids, "l2")

    @cached
    def _by_product(self) -> NearestRows:
        return NearestRows(self.centroids, "ip")

    def grouped(self, batches: Iterable[Rows], coder: Coder) -> Iterator[Rows]:
        """Rows with their cells, which those that have them already keep."""
        for rows in batches:
            yield rows.grouped(rows.cells or self.numbers_of(rows.codes, coder))
            del rows

    def to_bytes(self) -> bytes:
        """The file of the cells, see `from_bytes`."""
        from safetensors.numpy import save

        data: bytes = save({"centroids": self.centroids})
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Cells:
        """Read what `to_bytes` wrote.

        Raises
        ------
        CorruptIndexError
            It is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            state: dict[str, Any] = load(data)
        except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CorruptIndexError(
                f"the file of the cells is not a safetensors file: {error}."
            ) from error
        found = state.get("centroids")
        is_right = (
            len(state) == 1
            and found is not None
            and found.dtype == np.float32
            and found.ndim == 2
            and 1 <= len(found) <= MAX_CELLS
            and bool(np.isfinite(found).all())
        )
        if not is_right:
            raise CorruptIndexError(
                "the file of the cells has something else than centroids; expected finite float32 "
                "(nlist, D)."
            )
        assert found is not None
        return cls(np.ascontiguousarray(found))


def learned_cells(
    segments: Sequence[Segment], coder: Coder, nlist: int | Literal["auto"]
) -> Cells | None:
    """Cells of the rows of some segments, from a sample of them; None for no cells.

    Raises
    ------
    InvalidInputError
        ``nlist`` is no number of cells, or there are fewer rows.
    """
    n = sum(segment.n_live for segment in segments)
    count = as_nlist(nlist, n)
    if count == 0:
        return None
    drawn = sampled(n, count)
    codes, start = [np.empty((0, coder.code_size), np.uint8)], 0
    for segment in segments:
        first, last = np.searchsorted(drawn, [start, start + segment.n_live])
        codes.append(segment.codes_at(live_at(segment, drawn[first:last] - start)))
        start += segment.n_live
    return Cells.learn(np.concatenate(codes), coder, count)


def sampled(n: int, nlist: int) -> NDArray[np.int64]:
    """Ascending numbers of the rows, of so many, that cells are learned from.

    One is drawn of each of as many equal parts, which takes no memory for the others.
    """
    most = min(n, _SAMPLED * nlist)
    edges = np.arange(most + 1, dtype=np.int64) * n // max(most, 1)
    shift: NDArray[np.float64] = np.random.default_rng(_SEED).random(most) * np.diff(edges)
    return edges[:-1] + shift.astype(np.int64)


def regrouped(segments: Sequence[Segment], codec: IndexCodec) -> Iterable[Rows]:
    """All rows of some segments, in few batches, by the cells of a codec."""
    return codec.grouped(
        batch.grouped(None) for batch in joined(segments, grouped=codec.cells is not None)
    )


def as_nlist(nlist: int | str, n: int) -> int:
    """Number of cells for n vectors; ``"auto"`` is the power of two nearest to a thousandth.

    Raises
    ------
    InvalidInputError
        It is no number of cells.
    """
    if nlist != "auto":
        if isinstance(nlist, str):
            raise InvalidInputError(f"nlist is {nlist!r}; expected 'auto' or a number of cells.")
        return as_count(nlist, "nlist", 0, MAX_CELLS)
    cells = max(n, 1) / _ROWS_OF_A_CELL
    return min(_MAX_AUTO, max(1, 2 ** round(np.log2(max(cells, 1)))))
