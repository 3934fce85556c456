"""`CodeIndex`: a codec and rows of codes, as far as they are only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperpq import scan
from hyperpq.codes import code_size, row_bits
from hyperpq.errors import InvalidInputError, NotTrainedError
from hyperpq.filters.selectors import SearchParameters
from hyperpq.filters.where import Where
from hyperpq.store import Categories, Column, IndexStore, MemoryStore, Piece, RowStore
from hyperpq.store.columns import concatenate
from hyperpq.store.paths import Paths
from hyperpq.utils.validation import as_count, as_features, as_ids, as_number

if TYPE_CHECKING:
    from hyperpq.codec.base import Codec

# Queries whose tables are in memory at once.
_QUERIES = 256


class CodeIndex:
    """Search over coded vectors.

    Attributes
    ----------
    d, M, nbits, metric
        As `HiHPQIndex` takes them.
    device : str
        Where encoding runs.
    codec : Codec or None
        None before training.
    metadata : dict
        JSON-able facts of the caller's, stored with the index when it is first saved.
    """

    def __init__(self, d: int, M: int, nbits: int, metric: str, device: str) -> None:
        self.d, self.M, self.nbits, self.metric, self.device = d, M, nbits, metric, device
        self.codec: Codec | None = None
        self.metadata: dict[str, Any] = {}
        self._rows: RowStore = MemoryStore()

    @property
    def is_trained(self) -> bool:
        """Whether `add` and `search` can be called."""
        return self.codec is not None

    @property
    def store(self) -> IndexStore | None:
        """The store of an index that lies on disk."""
        return self._rows if isinstance(self._rows, IndexStore) else None

    @property
    def path(self) -> Path | None:
        """Directory of the index, None while it is in memory."""
        return self.store.path if self.store else None

    @property
    def parts(self) -> list[Piece]:
        """The rows in pieces: stored shards, or rows in memory."""
        return list(self._rows.pieces)

    @property
    def ntotal(self) -> int:
        """Vectors in the index."""
        return self._rows.ntotal

    @property
    def next_id(self) -> int:
        """Id that the next vector without an id of its own gets."""
        return self._rows.next_id

    @property
    def code_size(self) -> int:
        """Bytes of one coded vector."""
        return code_size(self.M, self.nbits)

    @property
    def attribute_names(self) -> list[str]:
        """Names of the attribute columns."""
        return self.parts[0].attribute_names if self.parts else []

    def __len__(self) -> int:
        return self.ntotal

    def __repr__(self) -> str:
        state = f"ntotal={self.ntotal}" if self.is_trained else "not trained"
        place = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"{type(self).__name__}(d={self.d}, M={self.M}, nbits={self.nbits}, "
            f"metric={self.metric!r}, {state}{place})"
        )

    def _trained(self) -> Codec:
        if self.codec is None:
            raise NotTrainedError("the index isn't trained; call train(x) before this.")
        return self.codec

    def encode(self, x: Any) -> NDArray[np.uint8]:
        """Vectors (n, d) -> codes (n, code_size) uint8, see `HiHPQCodec.encode`."""
        return self._trained().encode(x)

    def decode(self, codes: Any) -> NDArray[np.float32]:
        """Codes -> tangent vectors (n, M * D) of their codewords, see `HiHPQCodec.decode`."""
        return self._trained().decode(codes)

    def embed(self, x: Any) -> NDArray[np.float32]:
        """Vectors (n, d) -> tangent vectors (n, M * D) before quantization."""
        return self._trained().embed(x)

    def search(
        self,
        x: Any,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact k nearest codes under asymmetric hyperbolic distance.

        Parameters
        ----------
        x : array_like, shape (nq, d)
            Queries.
        k : int
            Results a query.
        params : SearchParameters, optional
            Which ids are searched, in FAISS's manner.
        where : str or Where, optional
            Which rows are searched, by their attributes, such as ``"width >= 512"``.
        threads : int, optional
            All cores unless given; the answer doesn't depend on it.

        Returns
        -------
        D : ndarray, shape (nq, k), float32
            Scores, ascending; +inf where there are fewer than k vectors.
        I : ndarray, shape (nq, k), int64
            Ids, equal scores by the lower one; -1 beside +inf.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        codec, k = self._trained(), as_count(k, "k")
        queries = as_features(x, self.d)
        parts = self._selected(params, where)
        most = min(k, max(sum(part.codes.n for part in parts), 1))
        with _room_for(k):
            D = np.full((len(queries), k), np.inf, np.float32)
            I = np.full((len(queries), k), -1, np.int64)  # noqa: E741
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            tables = codec.tables(queries[rows])
            D[rows, :most], I[rows, :most] = scan.search_segments(tables, parts, most, threads=threads)
        return D, I

    def range_search(
        self,
        x: Any,
        radius: float,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """All vectors with a metric below ``radius``; other parameters as in `search`.

        Returns
        -------
        lims : ndarray, shape (nq + 1,), int64
            Results of query q are those from ``lims[q]`` to ``lims[q + 1]``.
        D : ndarray, shape (lims[-1],), float32
            Scores, ascending for each query.
        I : ndarray, shape (lims[-1],), int64
            Ids, equal scores by the lower one.

        Raises
        ------
        NotTrainedError, InvalidInputError
        """
        codec, queries = self._trained(), as_features(x, self.d)
        radius = as_number(radius, "radius")
        parts = self._selected(params, where)
        lims, D, I = [np.zeros(1, np.int64)], [], []  # noqa: E741
        for start in range(0, len(queries), _QUERIES):
            tables = codec.tables(queries[start : start + _QUERIES])
            found = scan.range_search_segments(tables, parts, radius, threads=threads)
            lims.append(found[0][1:] + lims[-1][-1])
            D.append(found[1])
            I.append(found[2])
        none = np.empty(0, np.float32), np.empty(0, np.int64)
        return np.concatenate(lims), np.concatenate([none[0], *D]), np.concatenate([none[1], *I])

    def search_and_reconstruct(
        self,
        x: Any,
        k: int,
        *,
        params: SearchParameters | None = None,
        where: str | Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """`search`, with what `reconstruct` gives for each result.

        Returns
        -------
        D, I
            As `search`.
        R : ndarray, shape (nq, k, M * D), float32
            Tangent vectors; NaN where there is no result.
        """
        D, I = self.search(x, k, params=params, where=where, threads=threads)  # noqa: E741
        found = np.unique(I[I >= 0])
        decoded = self.reconstruct_batch(found)
        with _room_for(k):
            R = np.full((*I.shape, decoded.shape[1]), np.nan, np.float32)
        R[I >= 0] = decoded[np.searchsorted(found, I[I >= 0])]
        return D, I, R

    def reconstruct(self, id: int) -> NDArray[np.float32]:
        """Decoded tangent vector (M * D,) of the vector with this id.

        The learned map keeps M * D coordinates of a vector, so the answer lives in the space of
        `embed`, not in that of the features.

        Raises
        ------
        InvalidInputError
            The index has no such id.
        """
        return self.reconstruct_batch([as_count(id, "id", 0)])[0]

    def reconstruct_batch(self, ids: Any) -> NDArray[np.float32]:
        """`reconstruct` for several ids: (n,) -> (n, M * D) float32."""
        codec, labels = self._trained(), as_ids(ids, None, distinct=False)
        codes = np.empty((len(labels), self.code_size), np.uint8)
        missing = np.ones(len(labels), bool)
        for rows, piece in self.find(labels):
            here = rows >= 0
            codes[here] = piece.tiled.take(rows[here])
            missing &= ~here
        self._none_missing(labels, missing)
        return codec.decode(codes)

    def reconstruct_n(self, i0: int = 0, ni: int = -1) -> NDArray[np.float32]:
        """`reconstruct` for the ids from ``i0`` to ``i0 + ni - 1``; -1 is all there are from i0 on.

        Returns
        -------
        ndarray, shape (ni, M * D), float32
            By ascending id.
        """
        i0 = as_count(i0, "i0", 0)
        ni = as_count(ni, "ni", -1, np.iinfo(np.int64).max - i0 + 1)
        # Of more ids than there are rows one is missing among the first.
        most = min(ni, self.ntotal + 1)
        ids = self.ids[self.ids >= i0] if ni < 0 else np.arange(i0, i0 + most, dtype=np.int64)
        return self.reconstruct_batch(ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of all vectors, shape (ntotal,), int64, ascending."""
        return self.select()

    def select(
        self, params: SearchParameters | None = None, where: str | Where | None = None
    ) -> NDArray[np.int64]:
        """Ids (n,) int64, ascending, of the rows that `search` would search."""
        given = _both(params, where)
        pieces = [piece.ids[self.mask(piece, given)] for piece in self._rows.pieces]
        return np.sort(np.concatenate([np.empty(0, np.int64), *pieces]))

    def attributes_of(self, ids: Any) -> dict[str, NDArray[Any]]:
        """Attributes of rows, in the order of ``ids``.

        Parameters
        ----------
        ids : array_like, shape (n,)
            Ids of the index.

        Returns
        -------
        dict of str to ndarray, each shape (n,)
            Numbers, ``datetime64[ns]``, or strings (object, None where there is none).

        Raises
        ------
        InvalidInputError
            The index hasn't one of the ids.
        """
        labels = as_ids(ids, None, distinct=False)
        order = np.full(len(labels), -1, np.int64)
        found: dict[str, list[Column]] = {name: [] for name in self.attribute_names}
        count = 0
        for rows, piece in self.find(labels):
            here = np.flatnonzero(rows >= 0)
            for name, columns in found.items():
                columns.append(piece.attribute_at(name, rows[here]))
            order[here] = np.arange(count, count + len(here))
            count += len(here)
        self._none_missing(labels, order < 0)
        return {name: _values(c, order) for name, c in found.items() if c}

    def find(self, ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Piece]]:
        """Where ids lie: row of each in a piece, -1 where it isn't in that one, and the piece."""
        return ((rows, piece) for _, rows, piece in self._rows.find(ids))

    def _none_missing(self, ids: NDArray[np.int64], missing: NDArray[np.bool_]) -> None:
        if missing.any():
            raise InvalidInputError(f"id is {ids[missing][0]}; the index has no vector with it.")

    def _selected(
        self, params: SearchParameters | None, where: str | Where | None
    ) -> list[scan.CodeSegment]:
        """Parts of a scan with the rows that take part; those without any are left out."""
        given = _both(params, where)
        if given.sel is None and given.where is None:
            return [scan.CodeSegment(p.tiled, p.ids, p.alive) for p in self._rows.pieces]
        parts = []
        for piece in self._rows.pieces:
            # Only the bits of each piece are kept, an eighth of its mask.
            mask = self.mask(piece, given)
            if mask.any():
                parts.append(scan.CodeSegment(piece.tiled, piece.ids, row_bits(mask)))
        return parts

    def mask(self, piece: Piece, params: SearchParameters) -> NDArray[np.bool_]:
        """Rows (n,) of one of `parts` that aren't removed and that ``params`` lets through."""

        def column(name: str) -> Any:
            if name == "id":
                return piece.ids
            if name == "path" and piece.path_strings is not None:
                return Paths(piece.path_strings.offsets, piece.path_strings.blob)
            return piece.attribute(name)

        mask = np.ones(piece.n, bool)
        mask[piece.dead_rows] = False
        if params.sel is not None:
            mask &= params.sel.mask(piece.ids)
        if params.where is not None:
            mask &= params.where.mask(column, piece.n)
        return mask


@contextmanager
def _room_for(k: int) -> Iterator[None]:
    """Turn what numpy raises about too large an array into an error."""
    try:
        yield
    except (MemoryError, ValueError) as error:
        raise InvalidInputError(f"k is {k}; so many answers don't fit in memory.") from error


def _both(params: SearchParameters | None, where: str | Where | None) -> SearchParameters:
    if params is not None and not isinstance(params, SearchParameters):
        raise InvalidInputError(f"params is {params!r}; expected SearchParameters(sel=...).")
    if params is not None and params.where is not None and where is not None:
        raise InvalidInputError("where is given twice, in params too; expected one of them.")
    if params is None:
        return SearchParameters(where=where)
    return params if where is None else SearchParameters(params.sel, where)


def _values(columns: list[Column], order: NDArray[np.int64]) -> NDArray[Any]:
    column = concatenate(columns)[order]
    if isinstance(column, Categories):
        return np.array([*column.strings(), None], object)[:-1]
    return np.asarray(column)
